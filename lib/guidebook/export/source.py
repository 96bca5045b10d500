"""Source files of the library written as one that runs without it, to lie beside an exported model."""

import ast
import importlib
import inspect

CONFIG = "guidebook.config."  # of which networks and solvers need annotations alone


def one_file(name: str) -> str:
    """The source of a module and, before it, of those of the library that it imports names from, each once.

    What is imported of `guidebook.config` becomes `object`. Imports inside functions stay as they are.
    """
    return "\n\n".join(_sources(name, set()))


def _sources(name: str, done: set[str]) -> list[str]:
    source, found = inspect.getsource(importlib.import_module(name)), []
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("guidebook."):
            if node.module.startswith(CONFIG):
                lines[node.lineno - 1] = " = ".join([*(alias.name for alias in node.names), "object"])
            else:
                lines[node.lineno - 1] = ""
            lines[node.lineno : node.end_lineno] = [""] * (node.end_lineno - node.lineno)
            if not node.module.startswith(CONFIG) and node.module not in done:
                done.add(node.module)
                found += _sources(node.module, done)
    return [*found, f"# {name}\n" + "\n".join(lines).strip() + "\n"]

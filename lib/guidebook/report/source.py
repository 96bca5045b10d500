"""The library's own code on a page: a function or a class as it stands in its file."""

import ast
import textwrap
from pathlib import Path

from guidebook.config.errors import nearest
from guidebook.report.tables import Html

LIBRARY = Path(__file__).parents[1]
# Modules that show what others computed, or read the parameters
SHOWING = ("config", "report.charts", "report.figures", "report.source", "report.tables", "report.widgets")


def source(place: str) -> Html:
    """The source of a function, method or class, with the comment above it, which is its equation; coloured as Python.

    `place` is MODULE:NAME in the library, as `diffusion.guidance:between` or `training.ema:EMA.update`. The file is parsed and not
    imported, so that a page that is redrawn needs no torch. Raises ValueError where no file or no name is so called.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    module, _, name = place.partition(":")
    file = file_of(module)
    if file is None:
        raise ValueError(f"no module {module} in the library: source takes MODULE:NAME, as diffusion.guidance:between")
    text = file.read_text()
    first, last = lines(text, name)
    code = textwrap.dedent("\n".join(text.splitlines()[first - 1 : last]))
    where = f"lib/guidebook/{file.relative_to(LIBRARY).as_posix()}, lines {first} to {last}"
    block = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
    return Html(f'<div class="highlight"><pre>{block}</pre></div><p><em>{where}</em></p>')


def used(code: str) -> list[str]:
    """MODULE:NAME of the functions and classes of the library that code imports and names, without those that only show; each once."""
    known, found = {}, []
    nodes = (node for node in ast.walk(ast.parse(code)) if hasattr(node, "lineno"))
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("guidebook."):
            module = node.module.removeprefix("guidebook").lstrip(".")
            known |= {a.asname or a.name: (module, a.name) for a in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            found.append(_defined(".".join(filter(None, known[node.value.id])), node.attr))
        elif isinstance(node, ast.Name) and node.id in known:
            found.append(_defined(*known[node.id]))
    return [place for place in dict.fromkeys(found) if place and not place.startswith(SHOWING)]


def _defined(module: str, name: str) -> str | None:
    """MODULE:NAME of where a name is defined that a module holds; None where that is no function or class."""
    file = file_of(module)
    for node in ast.parse(file.read_text()).body if file else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return f"{module}:{name}"
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            return _defined(node.module.removeprefix("guidebook").lstrip("."), name)
    return None


def file_of(module: str) -> Path | None:
    """The file of a module of the library, or of a package."""
    place = LIBRARY / module.replace(".", "/")
    return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


def lines(text: str, name: str) -> tuple[int, int]:
    """First and last line, from 1 on, of what `text` defines as NAME or CLASS.NAME, the comment above it included. Raises ValueError."""
    scope, node = ast.parse(text).body, None
    for part in name.split("."):
        known = {n.name: n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        if part not in known:
            raise ValueError(f"{name} is not defined there{nearest(part, known)}; there are: {', '.join(known)}")
        node = known[part]
        scope = node.body
    above, first = text.splitlines(), min([node.lineno, *(d.lineno for d in node.decorator_list)])
    while first > 1 and above[first - 2].lstrip().startswith("#"):
        first -= 1
    return first, node.end_lineno

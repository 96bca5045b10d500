"""The executed notebook of a run: whether it reached its last cell and is what was written."""

import json
from pathlib import Path

from guidebook.runs.checked import checksum
from guidebook.runs.manifest import write


def code_cells(path: Path) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def missing(path: Path) -> list[int]:
    """Numbers of the code cells that did not run to their end. papermill's status alone is not enough: a dead kernel leaves
    cells marked completed, and `sys.exit(0)` leaves later ones unrun with return code 0."""
    if not path.exists():
        return [0]
    states = [(c["metadata"].get("papermill", {}).get("status"), c["execution_count"]) for c in code_cells(path)]
    return [i for i, (status, count) in enumerate(states) if status != "completed" or not isinstance(count, int)]


def complete(path: Path, key: str | None = None) -> bool:
    """A check that a notebook was executed to its last cell (where a key is given, with that key) and holds what it held then."""
    try:
        notebook = json.loads(path.read_bytes())
        facts = notebook["metadata"].pop("guidebook")
        return facts["sha256"] == checksum(notebook) and key in (None, facts["key"]) and not missing(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def sign(path: Path, key: str) -> None:
    """Notes in a notebook what it was made of, and a checksum of all else, its widgets too."""
    notebook = json.loads(path.read_text())
    notebook["metadata"].pop("guidebook", None)
    facts = {"key": key, "sha256": checksum(notebook)}
    notebook["metadata"]["guidebook"] = facts
    write(path, json.dumps(notebook, indent=1))

"""The executed notebook of a run: whether it reached its last cell and is what was written."""

import json
from pathlib import Path

from guidebook.runs.checked import checksum


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
    """Whether a notebook was executed to its last cell (where a key is given, with that key) and holds what it held then."""
    try:
        notebook = json.loads(path.read_bytes())
        facts, cells = notebook["metadata"]["guidebook"], notebook["cells"]
        return facts["cells"] == checksum(cells) and key in (None, facts["key"]) and not missing(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def sign(path: Path, key: str) -> None:
    """Notes in a notebook what it was made of, and a checksum of its cells."""
    notebook = json.loads(path.read_text())
    notebook["metadata"]["guidebook"] = {"key": key, "cells": checksum(notebook["cells"])}
    path.write_text(json.dumps(notebook, indent=1))

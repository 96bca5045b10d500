"""Folders of the study. An environment variable can move each of them; one that is set to nothing moves none."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("GUIDEBOOK_ROOT") or Path(__file__).resolve().parents[3])
PARAMS, NOTEBOOKS, BOOK = ROOT / "params", ROOT / "notebooks", ROOT / "book"
RESULTS = BOOK / "results"


def runs() -> Path:
    """The folder of all runs: `$GUIDEBOOK_RUNS`, else `runs/` of the checkout."""
    return Path(os.environ.get("GUIDEBOOK_RUNS") or ROOT / "runs").absolute()


def local_data() -> Path | None:
    """The folder of data sets of one's own, `$GUIDEBOOK_DATA`, if there is one."""
    return Path(root) if (root := os.environ.get("GUIDEBOOK_DATA")) else None

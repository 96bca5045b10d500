"""The checkpoints in a folder, `nimg-<images seen>`, without the seconds that torch takes to import."""

import logging
import re
from pathlib import Path

from guidebook.runs.manifest import MANIFEST

log = logging.getLogger(__name__)
NAME = re.compile(r"nimg-(\d{10,})")


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first. What a crash left unfinished is skipped with a log line."""
    found = saved(folder)
    for path in sorted({*folder.glob("*")}.difference(found)):
        log.warning("skipped %s: not a complete checkpoint", path.name)
    return found


def saved(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first; no word of others."""
    found = (file.parent for file in folder.glob(f"nimg-*/{MANIFEST}") if NAME.fullmatch(file.parent.name))
    return sorted(found, key=images)


def images(path: Path) -> int:
    """Images seen at a checkpoint, by its name."""
    return int(NAME.fullmatch(path.name)[1])

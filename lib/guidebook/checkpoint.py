"""Checkpoints that survive a crash at any instruction: written aside, hashed, fsynced, then renamed.

A checkpoint is a folder `nimg-<images seen>` of safetensors files, `state.json` and `manifest.json` with a sha256 of each
file. There is no pointer to the newest one, only a scan.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

log = logging.getLogger(__name__)
NAME = re.compile(r"nimg-(\d{10,})")
MANIFEST = "manifest.json"


class CorruptCheckpoint(RuntimeError):
    """A checkpoint whose bytes are not those that were written."""


def save(folder: Path, nimg: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int) -> Path:
    """Writes `folder/nimg-…` and removes all but the newest `keep`. On a full disk the older ones stay and OSError is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"nimg-{nimg:010d}", folder / f".writing-{nimg:010d}"
    if final in complete(folder):
        return final
    for leftover in (final, *folder.glob(".writing-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    try:
        for name, group in tensors.items():
            save_file({k: v.detach().contiguous().cpu() for k, v in group.items()}, aside / f"{name}.safetensors")
        (aside / "state.json").write_text(json.dumps(state))
        seal(aside)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, SafetensorError):  # what safetensors makes of a full disk
            raise OSError(f"{final.name} was not written ({error}); the checkpoints before it are whole") from error
        raise
    os.replace(aside, final)
    _fsync(folder)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first. What a crash left unfinished is skipped with a log line."""
    found = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if NAME.fullmatch(path.name) and (path / MANIFEST).is_file():
            found.append(path)
        else:
            log.warning("skipped %s: not a complete checkpoint", path.name)
    return sorted(found, key=lambda p: int(NAME.fullmatch(p.name)[1]))


def load(path: Path, device="cpu") -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """The tensors and the state of a checkpoint. Raises CorruptCheckpoint where a file is not what was written."""
    try:
        hashes = json.loads((path / MANIFEST).read_text())
        bad = _changed(path, hashes)
        if not bad and "state.json" in hashes:
            state = json.loads((path / "state.json").read_text())
            names = [n for n in hashes if n.endswith(".safetensors")]
            return {n.removesuffix(".safetensors"): load_file(path / n, device=str(device)) for n in names}, state
    except (ValueError, AttributeError, TypeError, UnicodeDecodeError):
        bad = [MANIFEST]
    raise CorruptCheckpoint(
        f"{path.name}: {', '.join(bad) or 'state.json'} is not what was written; delete the folder {path} "
        "and run again: training goes on from the checkpoint before it"
    )


def seal(folder: Path) -> None:
    """Writes a sha256 of each file to the folder's manifest, and everything to the disk."""
    hashes = {f.name: _sha256(f) for f in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for path in [*folder.iterdir(), folder]:
        _fsync(path)


def verify(folder: Path) -> None:
    """Raises CorruptCheckpoint where a file of a sealed folder is not what was written."""
    try:
        bad = _changed(folder, json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError, AttributeError):
        bad = [MANIFEST]
    if bad:
        raise CorruptCheckpoint(
            f"{folder.name}: {', '.join(bad)} is not what was written; delete {folder.parent} and run again: "
            "training goes on from its last checkpoint"
        )


def _changed(folder: Path, hashes: dict[str, str]) -> list[str]:
    return [name for name, sha in hashes.items() if not (folder / name).is_file() or _sha256(folder / name) != sha]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

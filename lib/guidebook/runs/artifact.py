"""Artifacts: folders that are made once, by any number of processes and machines, and found afterwards.

    def train(aside: Path) -> None: ...  # writes files into an empty folder
    folder = artifact(runs() / "judges", "judge-mnist", {"data": fingerprint, "steps": 800}, train)

Large arrays are made in parts, so that whoever is killed repeats one part at most, and are memory-mapped afterwards:

    def encode(first: int, end: int): ...  # rows [first, end) → {"latents": (end - first, 4, 32, 32)} and a list of notes
    parts = Parts([*range(0, n, 512), n], {"latents": ((4, 32, 32), "float16")})
    latents = arrays(artifact(runs() / "data", "latents", spec, encode, parts))["latents"]
"""

import hashlib
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from guidebook.config.params import digest
from guidebook.runs import checked, manifest, preemption
from guidebook.runs.manifest import intact, unless
from guidebook.runs.progress import Bar
from guidebook.runtime.distributed import agreed, alone, barrier, solo, world

PARTS = ".parts"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Arrays `<name>.npy` whose rows are made part by part: `make(first, end)` gives the rows by name, and notes (JSON values)."""

    cuts: Sequence[int]  # a part is the rows between two of them
    shapes: dict[str, tuple[tuple[int, ...], Any]]  # by name: shape of a row, and dtype
    at: Callable[[str, int], int] = lambda name, row: row  # where an array's rows begin from a cut on, if it has fewer
    # (k, n): every n-th part from k on, by one of n that do not talk and do not poll; (k, 1): all, from k on and around.
    # None: the processes of this world take turns.
    share: tuple[int, int] | None = None


def artifact(root: Path, name: str, spec: Any, make: Callable, parts: Parts | None = None, what: str = "") -> Path:
    """The folder `root/<name>-<8 hex of spec>`: found, else made aside, hashed in a manifest, put on the disk and renamed.

    `spec` is all that the files depend on: JSON values, pydantic models, tuples, paths. `what` names it in errors and beside the
    progress bar. Every process of a world calls it: the main one makes a folder, all share its parts. With
    `parts.share` the others may still be at work, who finish it: ask `intact` then. A changed byte is noticed on each
    process's first use, and the folder made anew with a warning.

    Raises OSError where the disk is full, Preempted, and what `make` raises. Parts that were made stay.
    """
    folder, what = place(root, name, spec), what or name
    missing, shared = not intact(folder), parts is not None and parts.share is not None
    # What one process does not see yet, all of them wait for.
    if missing if shared else agreed(missing):
        _fill(folder, make, parts, what) if parts else _write_folder(folder, make, what)
        if (folder.is_dir() or not shared) and not intact(folder):
            raise OSError(f"{what}: {folder.name} is gone after it was made: do all processes see its disk? Run again")
    return folder


def place(root: Path, name: str, spec: Any) -> Path:
    """Where an artifact lies, or would."""
    return root / f"{name}-{digest(to_jsonable_python(spec))}"


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays (N, …) of an artifact by name, memory-mapped."""
    # Copy on write: PyTorch takes no arrays that are read-only, and nobody writes.
    return {f.stem: np.lib.format.open_memmap(f, mode="c") for f in sorted(folder.glob("*.npy"))}


def notes(folder: Path) -> list:
    """The notes of an artifact's parts, in order."""
    return json.loads((folder / "notes.json").read_text())


def _write_folder(folder: Path, make: Callable[[Path], None], what: str) -> None:
    """The main process makes a folder; the others wait, and fail when it does. Of two runs at once, the first one's counts."""
    error = None
    if world().is_main_process:
        try:
            with solo(), manifest.whole(folder, what) as aside:
                make(aside)
        except BaseException as raised:
            error = raised
    stopped, failed = agreed(isinstance(error, preemption.Preempted)), agreed(error is not None)
    if failed:
        raise error or (preemption.Preempted(what) if stopped else RuntimeError(f"{what}: the main process failed"))


def reserve(folder: Path, parts: Parts) -> Path:
    """The folder beside an artifact's, in which its arrays are filled; the disk has room for all of them. Raises OSError."""
    aside = folder.with_name(f".{folder.name}")
    (aside / PARTS).mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in parts.shapes.items():
        _reserve(aside / f"{name}.npy", (int(parts.at(name, parts.cuts[-1])), *shape), np.dtype(dtype))
    return aside


def _fill(folder: Path, make: Callable, parts: Parts, what: str) -> None:
    """Parts of arrays, in turns, and the folder where all of them are made. A part is written, put on the disk and then marked as made."""
    aside = folder.with_name(f".{folder.name}")
    with unless(folder):
        reserve(folder, parts)
    ranges = list(itertools.pairwise(parts.cuts))
    markers = [f"{PARTS}/{first:09d}-{end:09d}.json" for first, end in ranges]
    k, n = parts.share or ((0, 1) if alone() else (world().process_index, world().num_processes))
    # In rounds, the last of which not every process has a part in: all of them ask equally often whether to stop.
    for i in Bar(range(k, k + len(ranges), n), what, unit="part", disable=bool(k)):
        i = i % len(ranges) if n == 1 else i
        ready = True
        with unless(folder):
            ready = i >= len(ranges) or is_made(aside, markers[i], parts, *ranges[i]) or folder.is_dir()
        if not ready:
            rows, noted = make(*ranges[i])
            with unless(folder):
                for name, values in rows.items():
                    _write(aside / f"{name}.npy", parts.at(name, ranges[i][0]), values)
                sums = {name: hashlib.sha256(np.ascontiguousarray(values)).hexdigest() for name, values in rows.items()}
                made = {"notes": noted, "rows": sums}
                write_json(aside, markers[i], made | {checked.KEY: checked.checksum(made)}, what)
        if not parts.share and preemption.current().asked():
            preemption.current().obey(f"{what}, part {min(i + 1, len(ranges))} of {len(ranges)}")
    if parts.share:
        return _finish(folder, aside, markers)
    barrier()
    if world().is_main_process:
        _finish(folder, aside, markers)
    barrier()


def is_made(aside: Path, marker: str, parts: Parts, first: int, end: int) -> bool:
    """A check that a part was made, now or before an interruption, and its rows are those that were written."""
    if not (aside / marker).exists():
        return False
    try:
        sums = checked.load(aside / marker)["rows"]
    except (ValueError, TypeError, KeyError):  # of an older version too
        sums = {"": ""}
    for name, kept in sums.items():
        file, rows = aside / f"{name}.npy", (parts.at(name, first), parts.at(name, end))
        array = np.lib.format.open_memmap(file, mode="r") if file.exists() else np.zeros(0)
        if hashlib.sha256(np.ascontiguousarray(array[slice(*rows)])).hexdigest() != kept:
            log.warning("%s: rows from %d on are not what was written; they are made anew", aside.name[1:], first)
            (aside / marker).unlink()
            return False
    return True


def _finish(folder: Path, aside: Path, markers: Sequence[Path]) -> None:
    """The arrays under their name, if every part is there."""
    with unless(folder):
        if all((aside / marker).exists() for marker in markers):
            gathered = [note for marker in markers for note in checked.load(aside / marker)["notes"]]
            write_json(aside, "notes.json", gathered, f"the notes of {folder.name}")
            manifest.rename(aside, folder)
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        elif folder.is_dir():  # whoever began when another ended
            shutil.rmtree(aside, ignore_errors=True)


def write_json(aside: Path, name: str, value: Any, what: str) -> None:
    """A file of JSON in a folder that is filled: there as it should be, or not at all."""
    manifest.write(aside / name, json.dumps(value), what, aside / PARTS / f"{Path(name).stem}.{manifest.me()}")


def _reserve(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An empty array in a file, with all of its bytes taken from the disk at once; left as it is where it is there."""
    taken = math.prod(shape) * dtype.itemsize
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    # Whoever comes at the same time writes the same header, and takes nothing that is taken.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    with (
        manifest.writing(file, f"{file.parent.name.lstrip('.')}: {file.name} ({taken / 1e9:.2f} GB)"),
        os.fdopen(descriptor, "r+b") as made,
    ):
        np.lib.format.write_array_header_1_0(made, header)
        made.flush()
        if file.stat().st_size < made.tell() + taken:
            os.posix_fallocate(made.fileno(), 0, made.tell() + taken)
            os.fsync(made.fileno())


def _write(file: Path, first: int, rows: np.ndarray) -> None:
    """Rows (n, …) at their place in an array, and on the disk. Not by mapping it, which on a network's disk writes what is beside."""
    offset = np.lib.format.open_memmap(file, mode="r").offset
    with open(file, "r+b") as out:
        out.seek(offset + first * rows[:1].nbytes)
        out.write(np.ascontiguousarray(rows).data)
        out.flush()
        os.fsync(out.fileno())

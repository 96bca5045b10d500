"""Large arrays that are made once, part by part, by any number of processes and machines, and memory-mapped when they are whole.

Pixels, latents and embeddings of captions are kept this way. A part is written to its place, put on the disk and then marked as
made, so that whoever is killed repeats one part at most.
"""

import contextlib
import fcntl
import itertools
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from guidebook.runs import artifact, manifest
from guidebook.runs.preemption import Stop
from guidebook.runtime.distributed import agreed, barrier, world

PARTS = ".parts"
Make = Callable[[int, int], tuple[dict[str, np.ndarray], list[str]]]  # rows [a, b) → their arrays, and notes


@dataclass(frozen=True)
class Arrays:
    """What a folder holds: arrays by name, each (N, …), and the notes that its parts left."""

    folder: Path
    by_name: dict[str, np.ndarray]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.by_name[name]


def opened(folder: Path) -> Arrays | None:
    """The arrays of a whole folder; None where there is none, or its bytes are not those that were written."""
    if not artifact.intact(folder):
        return None
    # Copy on write: PyTorch takes no arrays that are read-only, and nobody writes.
    found = {f.stem: np.lib.format.open_memmap(f, mode="c") for f in sorted(folder.glob("*.npy"))}
    return Arrays(folder, found, tuple(json.loads((folder / "notes.json").read_text())))


def built(
    folder: Path,
    cuts: Sequence[int],  # the parts are the rows between two of them
    shapes: dict[str, tuple[tuple[int, ...], type]],  # by name: shape of a row, and dtype
    make: Make,
    what: str,  # in words, for the progress bar and errors
    stop: Stop | None = None,  # asked between two parts
    share: tuple[int, int] | None = None,  # (k, n): one of n that work and do not talk; None is a process of its world
) -> Arrays | None:
    """The arrays of a folder: found, else made. None where others of a `share` are still at work: they finish it.

    Raises OSError where the disk is full, Preempted, and what `make` raises; parts that were made stay.
    """
    found = opened(folder)
    if found if share else not agreed(found is None):  # what one of them does not see yet, all of them wait for
        return found
    aside = folder.with_name(f".{folder.name}")
    with _unless(folder):
        (aside / PARTS).mkdir(parents=True, exist_ok=True)
        with _alone(aside):
            for name, (shape, dtype) in shapes.items():
                _reserve(aside / f"{name}.npy", (cuts[-1], *shape), dtype)
    parts = list(itertools.pairwise(cuts))
    markers = [aside / PARTS / f"{first:09d}-{end:09d}.json" for first, end in parts]
    k, n = share or (world().process_index, world().num_processes)
    # In rounds, the last of which not every process has a part in: all of them ask equally often whether to stop.
    for i in tqdm(range(k, k + len(parts), n), desc=what, unit="part", mininterval=1, disable=bool(k)):
        if i < len(parts) and not (marker := markers[i]).exists() and not folder.is_dir():
            arrays, notes = make(*parts[i])
            with _unless(folder):
                for name, rows in arrays.items():
                    _write(aside / f"{name}.npy", parts[i][0], rows)
                with manifest.writing(temporary := marker.with_suffix(f".{_me()}"), what):
                    temporary.write_text(json.dumps(notes))
                    manifest.fsync(temporary)
                    os.replace(temporary, marker)
        if stop and stop.asked():
            stop.obey(f"{what}, part {min(i + 1, len(parts))} of {len(parts)}")
    if not share:
        barrier()
        if world().is_main_process:
            _finish(folder, aside, markers)
        barrier()
    elif not _finish(folder, aside, markers):
        return None
    if (found := opened(folder)) is None:
        raise OSError(
            f"{what}: {folder.name} is not there after it was made: is it on a disk that all processes see? Run again"
        )
    return found


def _finish(folder: Path, aside: Path, markers: Sequence[Path]) -> bool:
    """Seals the arrays and gives them their name, if every part is there."""
    with _unless(folder):
        if not all(marker.exists() for marker in markers):
            if folder.is_dir():  # whoever began when another ended
                shutil.rmtree(aside, ignore_errors=True)
            return folder.is_dir()
        notes = [note for marker in markers for note in json.loads(marker.read_text())]
        with manifest.writing(temporary := aside / PARTS / f"notes.{_me()}", f"the notes of {folder.name}"):
            temporary.write_text(json.dumps(notes))
            os.replace(temporary, aside / "notes.json")
        manifest.checksum(aside)
        os.replace(aside, folder)
        manifest.fsync(folder.parent)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return folder.is_dir()


@contextlib.contextmanager
def _unless(folder: Path) -> Iterator[None]:
    """What fails in here does not matter where another process finished the folder meanwhile: all else is gone then."""
    try:
        yield
    except OSError:
        if not folder.is_dir():
            raise


@contextlib.contextmanager
def _alone(aside: Path) -> Iterator[None]:
    """One process at a time: the disk need not hold what each of them reserves."""
    with open(aside / PARTS / "lock", "w") as gate:
        with contextlib.suppress(OSError):  # a file system without locks: each reserves, and what one of them has stays
            fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _reserve(file: Path, shape: tuple[int, ...], dtype: type) -> None:
    """An empty array in a file, with all of its bytes taken from the disk at once; left alone where it is there."""
    if file.exists():
        return
    aside = file.parent / PARTS / f"{file.stem}.{_me()}"  # which goes when all is whole, whoever was killed
    taken = math.prod(shape) * np.dtype(dtype).itemsize
    with manifest.writing(aside, f"{file.name} ({taken / 1e9:.2f} GB)"):
        with open(aside, "wb") as made:
            np.lib.format.write_array_header_1_0(
                made, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            )
            size = made.tell() + taken
            made.flush()
            os.posix_fallocate(made.fileno(), 0, size)
            os.fsync(made.fileno())
        # Where locks do not reach, another process may have made it meanwhile, and begun to fill it.
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
        aside.unlink()


def _me() -> str:
    """This process, among those of all machines."""
    return f"{artifact.here()}-{os.getpid()}"


def _write(file: Path, first: int, rows: np.ndarray) -> None:
    """Puts rows (n, …) into their place in a file of rows, and on the disk. Not by mapping it: a full disk is then an error."""
    with open(file, "r+b") as out:
        out.seek(8)
        out.seek(10 + struct.unpack("<H", out.read(2))[0] + first * rows[:1].nbytes)
        out.write(np.ascontiguousarray(rows).data)
        out.flush()
        os.fsync(out.fileno())

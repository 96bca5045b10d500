"""Shards decoded once: every image at its resolution, one memory-mapped file per split, shared by the processes of a machine.

It is filled row by row by whoever decodes them, training processes among others, and gets its name when every row is there.
"""

import fcntl
import json
import os
import platform
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from guidebook.data.decode import BadImage, decode
from guidebook.data.shards import HELD, Shards, held_out
from guidebook.runs import artifact, manifest
from guidebook.runs.manifest import fsync

VERSION = 2  # of the way from bytes to pixels: other pixels, another number
MISSING, WHOLE, REPLACED, PROGRESSIVE = range(4)  # what `.state.npy` says of a row; progressive ones are whole


class Decoded:
    """The rows of shards at a resolution. Files of `folder`: `train.npy` and `test.npy` (N, 3, R, R) uint8, `labels.npy` by
    row, `facts.json` with the bad rows, in whose place stands another, and how many are progressive, and a manifest of hashes.
    """

    def __init__(self, folder: Path, train, test, labels, skipped: list[str], progressive: int):
        self.folder, self.train, self.test, self.labels = folder, train, test, labels
        self.skipped, self.progressive = tuple(skipped), progressive

    def images(self, rows: np.ndarray) -> torch.Tensor:
        """Images (n, 3, R, R) uint8 of rows (n,) that are not held out."""
        return torch.from_numpy(self.train[rows - rows // HELD])

    def split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All images (N, 3, R, R) uint8 of a split, memory-mapped, and their labels (N,) int64."""
        held = held_out(np.arange(len(self.labels)))
        return torch.from_numpy(getattr(self, name)), torch.from_numpy(self.labels[held if name == "test" else ~held])


def place(root: Path, shards: Shards, resolution: int) -> Path:
    """Where the rows lie when they are decoded: another folder for other files, resolutions or decoders."""
    return root / f"decoded-{shards.fingerprint}-{resolution}-v{VERSION}"


def opened(folder: Path) -> Decoded | None:
    """What was decoded before, None where nothing was; a folder whose bytes are not those that were written is deleted."""
    if not artifact.intact(folder):
        return None
    # Copy on write: PyTorch takes no arrays that are read-only, and nobody writes.
    arrays = (np.lib.format.open_memmap(folder / f"{name}.npy", mode="c") for name in ("train", "test", "labels"))
    return Decoded(folder, *arrays, **json.loads((folder / "facts.json").read_text()))


class Filling:
    """The same files while they are filled, by any number of threads, processes and runs of this machine at once.

    What a killed process has written counts for the next one, as long as the machine itself was not restarted. Raises OSError
    where the disk has no room: all of it is taken at the beginning.
    """

    def __init__(self, folder: Path, shards: Shards, resolution: int):
        self.folder, self.shards, self.resolution = folder, shards, resolution
        self.aside = folder.with_name(f".{folder.name}-{artifact.here()}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.aside.mkdir(exist_ok=True)
            held, image = shards.rows - shards.train_rows, (3, resolution, resolution)
            self.train = self._array("train", (shards.train_rows, *image), np.uint8)
            self.test = self._array("test", (held, *image), np.uint8)
            self.labels = self._array("labels", (shards.rows,), np.int64)
            self.state = self._array(".state", (shards.rows,), np.uint8)

    def lacks(self, row: int) -> bool:
        return self.state[row] == MISSING

    def replaced(self) -> int:
        """How many rows were bad so far."""
        return int((self.state == REPLACED).sum())

    def get(self, row: int) -> tuple[np.ndarray, int]:
        """Pixels and label of a row that is there."""
        images, at = self._at(row)
        return images[at], int(self.labels[row])

    def put(self, row: int, pixels: np.ndarray, label: int, state: int) -> None:
        """Keeps pixels (3, R, R) uint8 for a row; `state` is REPLACED where they are another's because its own are bad."""
        images, at = self._at(row)
        images[at], self.labels[row] = pixels, label
        self.state[row] = state  # last

    def _at(self, row: int) -> tuple[np.ndarray, int]:
        return (self.test, row // HELD) if held_out(row) else (self.train, row - row // HELD)

    def done(self) -> Decoded | None:
        """What was decoded, when every row is there: sealed, and under its own name. Raises OSError where the disk is full."""
        if not self.state.all() and not self.folder.is_dir():
            return None
        with self._alone():
            if not self.folder.is_dir():
                if not self.state.all():  # what another had finished is gone again
                    return None
                facts = {"skipped": self._reasons(), "progressive": int((self.state == PROGRESSIVE).sum())}
                (self.aside / "facts.json").write_text(json.dumps(facts))
                manifest.checksum(self.aside)
                artifact._mark_verified(self.aside)
                os.replace(self.aside, self.folder)
                fsync(self.folder.parent)
                (self.folder / ".state.npy").unlink()
            # Of this machine before it was restarted, and of processes that began when the others had nearly ended.
            for leftover in self.folder.parent.glob(f".{self.folder.name}-{platform.node()}-????????"):
                manifest.delete(leftover)
        return opened(self.folder)

    def _reasons(self) -> list[str]:
        """One line for each bad row."""
        reasons, bad = [], set(np.flatnonzero(self.state == REPLACED).tolist())
        for i, group in enumerate(self.shards.groups):
            if bad.isdisjoint(range(group.first, group.first + group.rows)):
                continue
            for row in self.shards.read(i):
                if row.number in bad:
                    try:
                        decode(row.raw, 3, self.resolution)
                    except BadImage as error:
                        reasons.append(f"{self.shards.name(row.number)}: {error}")
        return reasons

    def _array(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """The array of a file, which is made where it is missing."""
        file = self.aside / f"{name}.npy"
        if not file.exists():
            aside = file.with_suffix(f".{os.getpid()}")
            with manifest.writing(aside, f"{file.name} of the decoded images"):
                array = np.lib.format.open_memmap(aside, "w+", dtype, shape)
                with open(aside, "r+b") as made:  # to write into a hole of a full disk would end the process
                    os.posix_fallocate(made.fileno(), 0, aside.stat().st_size)
                del array
                os.replace(aside, file)
        return np.lib.format.open_memmap(file, mode="r+")

    @contextmanager
    def _alone(self):
        """One process at a time."""
        with open(self.folder.with_name(f".{self.folder.name}.lock"), "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

"""Images of shards decoded once, at one resolution, into memory-mapped arrays that all processes and all later runs share.

A first epoch that streams the shards keeps what it decodes, row by row, wherever it begins; what it did not come to is decoded in
parts, a row group each. Several processes, runs and machines may do so at once: a row that two of them decode has the same bytes.
"""

import contextlib
import itertools
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from guidebook.config.datasets import DataError
from guidebook.config.paths import runs
from guidebook.data.decode import BadImage, decode, progressive, quiet
from guidebook.data.shards import Row, Shards
from guidebook.runs import checked
from guidebook.runs.artifact import PARTS, Parts, arrays, artifact, is_made, notes, place, reserve, write_json
from guidebook.runs.manifest import here
from guidebook.runtime.distributed import world

VERSION = 3  # of the way from bytes to pixels: other pixels, another number
MISSING, DECODED, PROGRESSIVE = range(3)  # states of a row, in the last two bits beside a checksum of it
log = logging.getLogger(__name__)


class Cache:
    """Arrays `train` and `test` (N, 3, R, R) uint8 and `labels` (rows,) int64 of shards.

    A bad row has the image and the label of the next good one of its split. Where more than `bad_share` of all rows are bad, whoever
    meets the last of them raises DataError.
    """

    def __init__(self, name: str, shards: Shards, resolution: int, bad_share: float):
        self.name, self.shards, self.resolution, self.bad_share = name, shards, resolution, bad_share
        self.bad: dict[int, str] = {}  # rows met so far that cannot be read, and why
        self._root, self._spec = runs() / "data", [VERSION, shards.fingerprint, resolution]
        self.folder = place(self._root, f"decoded-{name}", self._spec)
        self.arrays: dict[str, np.ndarray] | None = None  # when everything is decoded
        self._state: np.ndarray | None = None  # (rows,) uint32, while rows are kept

    def _parts(self, first: int = 0) -> Parts:
        image = ((3, self.resolution, self.resolution), np.uint8)
        cuts = [*(group.first for group in self.shards.groups), self.shards.rows]
        shapes = {"train": image, "test": image, "labels": ((), np.int64)}
        return Parts(cuts, shapes, self.shards.place, share=(first, 1))

    def decode(self) -> None:
        """Decodes what is missing, found or made by other processes meanwhile. Raises OSError where the disk is full, DataError."""
        if self.arrays is None:
            k, n = world().process_index, world().num_processes
            if n == 1:  # tasks of an array
                k, n = (int(os.environ.get(f"SLURM_ARRAY_TASK_{x}", d)) for x, d in (("ID", 0), ("COUNT", 1)))
            parts = self._parts(k * len(self.shards.groups) // n % len(self.shards.groups))
            artifact(self._root, f"decoded-{self.name}", self._spec, self._fill, parts, f"decoding {self.name}")
            self.arrays = arrays(self.folder)
            self.close()
            if self.skipped:
                log.warning("%s", allow(self.skipped, len(self.skipped), self.shards.rows, self.bad_share, self.name))

    def complete(self) -> bool:
        """A check that all images are decoded, by whichever process. Raises OSError where the disk is full, DataError."""
        if self.arrays is None and (self.folder.is_dir() or (self.keeps and self._state.all())):
            self.decode()
        return self.arrays is not None

    def split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All images (N, 3, R, R) uint8 of "train" or "test", memory-mapped, and their labels (N,) int64. Decodes what is missing."""
        self.decode()
        held = self.shards.held_out(np.arange(self.shards.rows))
        labels = self.arrays["labels"][held if name == "test" else ~held]
        return torch.from_numpy(self.arrays[name]), torch.from_numpy(labels)

    def some(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 3, R, R) uint8 of some rows and their labels (n,) int64; none but these is decoded. Raises DataError."""
        missing = {row for row in rows if self.lacks(row)}
        found = {row: self._kept(row) for row in rows if row not in missing}
        for group in sorted({self.shards.group_of(row) for row in missing}):
            read = self.shards.read(group)
            found |= {row.number: self.image(row) for row in read if row.number in missing}
        return self.stacked([found[row] for row in rows])

    def stacked(self, rows: Sequence[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 3, R, R) uint8 and labels (n,) int64 of what `image` gave for n rows."""
        images, labels = np.empty((len(rows), 3, *[self.resolution] * 2), np.uint8), np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            images[i], labels[i] = row
        return torch.from_numpy(images), torch.from_numpy(labels)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The bad images by name: all, once everything is decoded, else those that were met."""
        if self.arrays is None:
            return tuple(self.bad[row] for row in sorted(self.bad))
        return tuple(name for part in notes(self.folder) for name in part["bad"])

    @property
    def progressive(self) -> int | None:
        """How many of the images are progressive JPEGs, once everything is decoded."""
        return None if self.arrays is None else sum(part["progressive"] for part in notes(self.folder))

    keeps = property(lambda self: self._state is not None)

    def keep(self) -> None:
        """From here on `image` keeps what it decodes. Raises OSError where the disk has no room for everything."""
        parts = self._parts()
        self.aside = reserve(self.folder, parts)
        with open(self.aside / PARTS / f"state-{here()}", "ab") as made:
            os.posix_fallocate(made.fileno(), 0, 4 * self.shards.rows)
        files = {name: self.aside / f"{name}.npy" for name in parts.shapes}  # opened for writing, and mapped
        self._files = {k: (os.open(f, os.O_RDWR), np.lib.format.open_memmap(f, mode="r")) for k, f in files.items()}
        # What a killed process wrote counts until the machine starts again; parts that are marked lie on the disk.
        state = np.memmap(made.name, np.uint32, "r+")
        for marker in (self.aside / PARTS).glob("[0-9]*-*.json"):
            first, end = map(int, marker.stem.split("-"))
            if not state[first:end].all() and is_made(self.aside, f"{PARTS}/{marker.name}", parts, first, end):
                state[first:end] = [_mark(*self._kept(row)) for row in range(first, end)]
        self._state = state

    def close(self) -> None:
        """Ends `keep`; what another process left beside the complete arrays goes."""
        self._state = None  # files stay open for the threads that are reading
        if self.arrays is not None:
            shutil.rmtree(self.folder.with_name(f".{self.folder.name}"), ignore_errors=True)

    def lacks(self, row: int) -> bool:
        """A check that a row is still to be decoded, or is not what was written."""
        state = self._state  # another thread may end it
        if self.arrays is not None or state is None or state[row] == MISSING:
            return self.arrays is None
        return _mark(*self._kept(row), state[row] & 3) != state[row]

    def image(self, row: Row) -> tuple[np.ndarray, int]:
        """Pixels (3, R, R) uint8 and label of a row. Raises DataError."""
        if not self.lacks(row.number):
            return self._kept(row.number)
        for other in itertools.chain([row], self.shards.following(row.number)):
            try:
                pixels = decode(other.raw, 3, self.resolution)
            except BadImage as error:
                self._skip(other.number, error)
                continue
            if (state := self._state) is not None:
                self._write(row.number, pixels, other.label)
                kind = PROGRESSIVE if other is row and progressive(row.raw) else DECODED
                state[row.number] = _mark(pixels, other.label, kind)  # last
            return pixels, other.label
        raise DataError("no row of the shards can be read")

    def _kept(self, row: int) -> tuple[np.ndarray, int]:
        (name, at), (_, number) = self._places(row)
        arrays = self.arrays or {name: array for name, (_, array) in self._files.items()}
        return arrays[name][at], int(arrays["labels"][number])

    def _fill(self, first: int, end: int) -> tuple[dict, list]:
        """Decodes the rows [first, end) of a group that are missing; notes its bad rows and how many are progressive."""
        if not self.keeps:
            self.keep()
        if any(map(self.lacks, range(first, end))):
            quiet()
            with ThreadPoolExecutor(threads(), "decode") as pool:
                rows = (row for row in self.shards.read(self.shards.group_of(first)) if self.lacks(row.number))
                for _ in pool.map(self.image, rows):
                    pass
        parts = self._parts()
        rows = {k: array[parts.at(k, first) : parts.at(k, end)].copy() for k, (_, array) in self._files.items()}
        bad = [self._named(f) for f in self._bad_files() if first <= int(f.stem[4:]) < end]
        return rows, [{"bad": bad, "progressive": int((self._state[first:end] & 3 == PROGRESSIVE).sum())}]

    def _bad_files(self) -> list[Path]:
        return sorted((self.aside / PARTS).glob("bad-*.json"))

    def _named(self, file: Path) -> str:
        """A bad image, and why it is bad where the file that says so is what was written."""
        try:
            return checked.load(file)["bad"]
        except (ValueError, TypeError, KeyError):
            return f"{self.shards.name(int(file.stem[4:]))}: cannot be read"

    def _skip(self, row: int, error: BadImage) -> None:
        if row not in self.bad:
            self.bad[row] = f"{self.shards.name(row)}: {error}"
            log.warning("%s is skipped", self.bad[row])
            if self.keeps:
                with contextlib.suppress(FileNotFoundError):  # others have finished, and what lay aside is gone
                    named = {"bad": self.bad[row]}
                    named |= {checked.KEY: checked.checksum(named)}
                    write_json(self.aside, f"{PARTS}/bad-{row:09d}.json", named, "the name of a bad image")
        # What others met counts too: how many may be bad is a matter of the whole set.
        n = len(self._bad_files()) if self.keeps else len(self.bad)
        allow(tuple(self.bad.values()), n, self.shards.rows, self.bad_share, self.name)

    def _places(self, row: int) -> list[tuple[str, int]]:
        split = "test" if self.shards.held_out(row) else "train"
        return [(split, int(self.shards.place(split, row))), ("labels", row)]

    def _write(self, row: int, pixels: np.ndarray, label: int) -> None:
        for (name, at), values in zip(self._places(row), (pixels, np.int64(label)), strict=True):
            file, array = self._files[name]
            os.pwrite(file, values.tobytes(), array.offset + at * values.nbytes)


def _mark(pixels: np.ndarray, label: int, kind: int = DECODED) -> int:
    """The state of a row (uint32): a checksum of its pixels (3, R, R) and its label, with its kind in the last two bits."""
    return zlib.crc32(b"%d" % label, zlib.crc32(np.ascontiguousarray(pixels))) & ~3 | kind


def allow(skipped: list[str], n: int, rows: int, share: float, where: str) -> str:
    """The warning that names some of the `n` images skipped of `rows`. Raises DataError where they are more than the share."""
    named = "; ".join(skipped[:5]) + ("; …" if n > 5 else "")
    many = f"{where}: {n:,} of {rows:,} images ({n / rows:.2%}) cannot be read"
    if n > share * rows:
        raise DataError(f"{many}, {share:.2%} may be skipped: {named}; replace the files")
    return f"{many} and are skipped: {named}"


def threads() -> int:
    """That decode, of this process's share of the machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

"""Parquet shards too large for memory: which rows they hold, in which order an epoch sees them, and their bytes.

An epoch shuffles the row groups of all files and cuts them into windows; within a window the rows are shuffled. So a window of a
few hundred rows is all that has to be held, it mixes groups from all over the set, and the order is a function of (seed, epoch)
alone. Nothing here decodes.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from guidebook.data.images import DataError
from guidebook.rng import generator

HELD = 10  # where the hub has no test split, every tenth row is held out


@dataclass(frozen=True)
class Group:
    """A row group: the least that a parquet file is read by."""

    file: Path
    number: int  # in its file
    first: int  # its first row, counted over all files
    rows: int


@dataclass(frozen=True)
class Row:
    number: int  # over all files
    label: int
    raw: bytes | None  # the image file


@dataclass(frozen=True)
class Window:
    """Row groups that are held together, and the order in which their rows are seen."""

    groups: tuple[int, ...]
    rows: np.ndarray  # (n,) int64: row numbers


class Shards:
    """The rows of some parquet files in the hub's layout, in the order of the files' names. Raises DataError."""

    def __init__(self, files: list[Path], image: str, label: str):
        self.image, self.label, self.groups = image, label, []
        digest, first = hashlib.sha256(), 0
        for file in sorted(files):
            try:
                footer = pq.read_metadata(file)
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"{file.name} is not a whole parquet file: {' '.join(str(error).split())[:200]}"
                ) from None
            sizes = [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
            digest.update(f"{file.name} {file.stat().st_size} {sizes}\n".encode())
            for i in range(footer.num_row_groups):
                self.groups.append(Group(file, i, first, footer.row_group(i).num_rows))
                first += self.groups[-1].rows
        self.rows = first
        self.fingerprint = digest.hexdigest()[:16]  # of names, sizes and footers: 32 GB are not read to be recognised
        if not first:
            raise DataError("the shards hold no rows: put the hub's parquet files in their place")

    @property
    def train_rows(self) -> int:
        return self.rows - self.rows // HELD

    def read(self, group: int) -> Iterator[Row]:
        """The rows of a group, one at a time; of its columns only the two that are needed. Raises DataError."""
        g = self.groups[group]
        try:
            with pq.ParquetFile(g.file) as file:
                table = file.read_row_group(g.number, columns=[f"{self.image}.bytes", self.label], use_threads=False)
            images, labels = pc.struct_field(table[self.image].combine_chunks(), "bytes"), table[self.label].to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"{g.file.name}, row group {g.number}, cannot be read with its columns {self.image} {{bytes, path}} and "
                f"{self.label}: {' '.join(str(error).split())[:200]}"
            ) from None
        for i, label in enumerate(labels):
            if label is None:
                raise DataError(f"{g.file.name} row {g.first + i} has no label")
            yield Row(g.first + i, label, images[i].as_py())

    def epoch(self, seed: int, epoch: int, window: int) -> tuple[Window, ...]:
        """What an epoch sees, window by window: every row that is not held out, once.

        A window holds about `window` rows, in whole groups; all windows of an epoch have as many groups, but for one.
        """
        return _epoch(tuple((g.first, g.rows) for g in self.groups), seed, epoch, window)

    def at(self, seed: int, position: int, window: int) -> Iterator[tuple[Window, int]]:
        """The windows from a position of the endless order on, each with the place in it where to begin."""
        epoch, left = divmod(position, self.train_rows)
        while True:
            for found in self.epoch(seed, epoch, window):
                if left < len(found.rows):
                    yield found, left
                    left = 0
                else:
                    left -= len(found.rows)
            epoch += 1


def held_out(row):
    """Whether a row (a number or an array of them) belongs to the test split."""
    return row % HELD == HELD - 1


@functools.lru_cache(maxsize=2)
def _epoch(groups: tuple[tuple[int, int], ...], seed: int, epoch: int, window: int) -> tuple[Window, ...]:
    rng = generator(seed, "shards", epoch)
    shuffled = torch.randperm(len(groups), generator=rng).numpy()
    wanted = round(sum(n for _, n in groups) / window)
    windows = []
    for part in np.array_split(shuffled, min(max(1, wanted), len(groups))):
        members = np.concatenate([np.arange(first, first + n) for first, n in (groups[i] for i in part)])
        members = members[~held_out(members)]
        order = torch.randperm(len(members), generator=rng).numpy()
        windows.append(Window(tuple(part.tolist()), members[order]))
    return tuple(w for w in windows if len(w.rows))

"""Parquet shards too large for memory: which rows they hold, in which order an epoch sees them, and their bytes.

An epoch shuffles the row groups of all files and cuts them into windows; within a window the rows are shuffled. So a window of a
thousand rows or two is all that has to be held, it mixes groups from all over the set, and the order is a function of (seed, epoch)
alone. Nothing here decodes.
"""

import bisect
import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from guidebook.config.datasets import HELD, DataError
from guidebook.config.own import Own
from guidebook.data import parquet
from guidebook.data.parquet import File, Label
from guidebook.runtime.seeds import generator

Paths = Sequence[Path | File]


class Group(NamedTuple):
    """A row group: the least that a parquet file is read by."""

    file: File  # or a URL such as hf://datasets/…
    number: int  # in its file
    first: int  # its first row, counted over all files
    rows: int

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.rows)


class Row(NamedTuple):
    number: int  # over all files
    label: int
    raw: bytes | None  # the image file


class Window(NamedTuple):
    """Row groups that are held together, and the order in which their rows are seen."""

    groups: tuple[int, ...]
    rows: np.ndarray  # (n,) int64: row numbers


class Shards:
    """The first rows of some parquet files in the hub's layout, in the order of the files' names. Raises DataError.

    `tests` are the files of the test split, whose rows come last; where there are none, every tenth row is held out for it. `limit`
    is how many rows are for training, and of `tests` how many for testing; None is all. `numbers` are the labels in the files, in the
    order of the classes; images of one's `own` bring their labels, row by row, and their order.
    """

    def __init__(
        self,
        files: Paths,
        image: str,
        label: Label,
        numbers: Sequence[int],
        limit: int | None = None,
        tests: Paths = (),
        own: Own | None = None,
    ):
        self.image, self.label, self.numbers, self.groups, self.rows = image, () if own else label, numbers, [], 0
        files, tests = (paths if own else sorted(map(str, paths)) for paths in (files, tests))
        digest = hashlib.sha256()  # of names and footers: 32 GB are not read to be recognised
        self._add(files, with_held_out(limit) if limit and not tests else limit, digest)
        self.first_test = self.rows if tests else None
        self.labels = own and [*own.labels["train"][: self.first_test], *own.labels["test"]]
        self._add(tests, limit, digest)
        chosen = "" if isinstance(numbers, range) else f" {numbers}"
        digest.update(f"{self.rows} {self.first_test}{chosen}{own.contents.fingerprint if own else ''}".encode())
        self.fingerprint = digest.hexdigest()[:16]
        if not self.rows:
            raise DataError("the shards hold no rows: put the hub's parquet files in their place")

    def _add(self, files: Paths, limit: int | None, digest) -> None:
        left = limit or math.inf
        for file in files:
            if not left:
                return
            name = "" if isinstance(file, tuple) else PurePosixPath(file).name
            for i, (n, size) in enumerate(parquet.groups(file)):
                if rows := min(n, left):
                    digest.update(f"{name} {i} {n} {size}\n".encode())
                    self.groups.append(Group(file, i, self.rows, rows))
                    self.rows, left = self.rows + rows, left - rows

    @property
    def train_rows(self) -> int:
        return self.place("train", self.rows)

    def held_out(self, row):
        """A check that a row, a number or an array of them, belongs to the test split."""
        return row % HELD == HELD - 1 if self.first_test is None else row >= self.first_test

    def place(self, split: str, row):
        """How many rows of a split, "train" or "test", come before a row, a number or an array of them; of any other name all rows."""
        held = row // HELD if self.first_test is None else np.maximum(0, row - self.first_test)
        return {"train": row - held, "test": held}.get(split, row)

    def read(self, group: int) -> Iterator[Row]:
        """The rows of a group, one at a time. Raises DataError."""
        g = self.groups[group]
        found = parquet.rows(g.file, self.image, self.label, g.number)
        for number, (raw, label) in zip(g.numbers, found, strict=False):
            known = self.labels[number] if self.labels else parquet.class_of(label, self.numbers, self.name(number))
            yield Row(number, known, raw)

    def following(self, number: int) -> Iterator[Row]:
        """The other rows of a row's split, from the next one on and around."""
        first = self.group_of(number)
        for i in range(len(self.groups) + 1):
            for row in self.read((first + i) % len(self.groups)):
                if (i or row.number > number) and self.held_out(row.number) == self.held_out(number):
                    yield row

    def group_of(self, number: int) -> int:
        """The group that holds a row."""
        return bisect.bisect_right(self.groups, number, key=lambda g: g.first) - 1

    def name(self, number: int) -> str:
        """Where a row lies, for somebody who looks for it."""
        group = self.groups[self.group_of(number)]
        if isinstance(file := group.file, tuple):
            return "/".join(PurePosixPath(file[number - group.first]).parts[-2:])
        first = next(g.first for g in self.groups if g.file == file)
        return f"{PurePosixPath(file).name} row {number - first}"

    def epoch(self, seed: int, epoch: int, window: int) -> tuple[Window, ...]:
        """The rows of an epoch, window by window: every row that is not held out, once.

        All windows hold about `window` rows, within one row group more or less, for they hold groups whole.
        """
        if self.first_test is not None:
            raise ValueError("only a set without test files is streamed")
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

    def order(self, seed: int, position: int, n: int, window: int) -> np.ndarray:
        """Row numbers (n,) of the images seen as number `position` … `position + n - 1`."""
        parts, left = [], n
        for found, begin in self.at(seed, position, window):
            parts.append(found.rows[begin : begin + left])
            left -= len(parts[-1])
            if not left:
                return np.concatenate(parts)


@functools.lru_cache(maxsize=2)
def _epoch(groups: tuple[tuple[int, int], ...], seed: int, epoch: int, window: int) -> tuple[Window, ...]:
    rng = generator(seed, "shards", epoch)
    shuffled = torch.randperm(len(groups), generator=rng).numpy()
    sizes = np.array([groups[i][1] for i in shuffled])
    middles = sizes.cumsum() - sizes / 2  # a group belongs to the window that its middle row lies in
    n = max(1, round(sizes.sum() / window))
    cuts, windows = np.searchsorted(middles, np.arange(1, n) * sizes.sum() / n), []
    for part in filter(len, np.split(shuffled, cuts)):
        members = np.concatenate([np.arange(first, first + n) for first, n in (groups[i] for i in part)])
        members = members[members % HELD != HELD - 1]
        order = torch.randperm(len(members), generator=rng).numpy()
        windows.append(Window(tuple(part.tolist()), members[order]))
    return tuple(w for w in windows if len(w.rows))


def with_held_out(train: int) -> int:
    """How many rows there are to so many for training, with those that are held out between them."""
    return train + (train - 1) // (HELD - 1)

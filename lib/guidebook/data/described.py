"""Descriptions of a data set, held to its files: how many images, and of which classes. Imports no torch."""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from guidebook.config.datasets import HELD, DataError
from guidebook.config.errors import plain
from guidebook.config.params import Data
from guidebook.data import parquet
from guidebook.data.files import Files, files_of


def named_alike(data: Data, files: Files) -> None:
    """Raises DataError where a file calls most of the classes otherwise than the catalog: it is of another set."""
    entry, file = data.entry, str(files.train[0])
    if data.contents or not (said := parquet.class_names(file, entry.label)):
        return
    theirs = [said[number].partition(",")[0] if number < len(said) else "nothing" for number in entry.labels]
    same = [_letters(a) == _letters(b) for a, b in zip(theirs, entry.classes, strict=True)]
    if 2 * sum(same) < len(same):  # a name may be spelt otherwise
        at = same.index(False)
        wrong = f"calls {plain(theirs[at])[:60]!r} what {data.name} calls {entry.classes[at]!r}"
        raise DataError(f"{PurePosixPath(file).name} {wrong}: it is of another set, or set data.subset.classes")


def check(images: Any, data: Data) -> None:
    """The comparison of loaded images with what is said of them. Raises DataError where a number or a class is wrong."""
    if data.entry.stand_in and images.source != "hub, streamed":
        return check_files(data)
    streamed = data.entry.window and {"train": images.shards.train_rows}
    _check_numbers(data, streamed or {"train": len(images.train), "test": len(images.test)}, data.limit or math.inf)


def check_files(data: Data) -> None:
    """The comparison of files on this machine with what is said of them, whatever the limit: before anything is decoded.

    Raises DataError where they are not to be had, or a number or a class is wrong.
    """
    entry, files = data.entry, files_of(data)
    if data.contents or files.source == "hub, streamed":  # compared when they were found, or when they are read
        return
    named_alike(data, files)
    have = {split: parquet.count(paths) for split in ("train", "test") if (paths := getattr(files, split))}
    have["train"] -= have["train"] // HELD if entry.window else 0
    _check_numbers(data, have, math.inf)
    if entry.attributes:
        return
    train, _ = (
        {parquet.class_of(number, entry.labels, data.name) for number in parquet.values(paths, entry.label)}
        for paths in (files.train, files.test)
    )
    if absent := [name for i, name in enumerate(entry.classes) if i not in train]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise DataError(f"{data.name} has no training image of {absent[0]}{more}: set data.subset.classes")


def _check_numbers(data: Data, have: dict[str, int], limit: float) -> None:
    for split, n in have.items():
        rows = min(getattr(data.entry, split), limit)
        # The rows of a published set that is streamed are known within a hundredth.
        if abs(n - rows) > (rows // 100 if data.entry.window and not data.subset else 0):
            counts = ", ".join(f"{k}: {v}" for k, v in have.items())
            part = f"complete the files, or, where a part of the set is meant, set data.subset={{{counts}}}"
            raise DataError(f"{data.name} has {n:,} {split} images, expected {rows:,}: {part}")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()

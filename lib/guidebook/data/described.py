"""What is said of a data set, held to its files: how many images, and of which classes."""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from guidebook.config.datasets import DataError
from guidebook.config.errors import plain
from guidebook.config.params import Data
from guidebook.data import parquet
from guidebook.data.files import Files, files_of
from guidebook.data.shards import HELD


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
    """The comparison of loaded images with what is said of them, whatever the limit. Raises DataError where a number or a class is wrong."""
    entry, limit = data.entry, data.limit or math.inf
    if data.contents:  # compared when the files were found
        return
    if entry.stand_in and images.source != "hub, streamed":
        files, limit = files_of(data), math.inf
        have = {split: parquet.count(paths) for split in ("train", "test") if (paths := getattr(files, split))}
        have["train"] -= have["train"] // HELD if entry.window else 0
    else:
        streamed = entry.window and {"train": images.shards.train_rows}
        have = streamed or {"train": len(images.train), "test": len(images.test)}
    for split, n in have.items():
        rows = min(getattr(entry, split), limit)
        # The rows of a published set that is streamed are known within a hundredth.
        if abs(n - rows) > (rows // 100 if entry.window and not data.subset else 0):
            counts = ", ".join(f"{k}: {v}" for k, v in have.items())
            part = f"complete the files, or, where a part of the set is meant, set data.subset={{{counts}}}"
            raise DataError(f"{data.name} has {n:,} {split} images, expected {rows:,}: {part}")
    if entry.window or entry.attributes or data.limit:
        return
    occurring = set(images.train.labels.tolist())
    if absent := [name for i, name in enumerate(entry.classes) if i not in occurring]:
        raise DataError(f"{data.name} has no training image of {absent[0]}: set data.subset.classes")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()

"""Image sets too large for memory whose training shuffles something smaller, such as their latents: decoded once, in row order."""

import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from guidebook.config.datasets import CATALOG, DataError, allow, parquet_files
from guidebook.config.paths import runs
from guidebook.config.schema import Data
from guidebook.data.decode import BadImage, decode_in_thread, quiet
from guidebook.data.decoded import VERSION
from guidebook.data.shards import Row, Shards
from guidebook.data.split import Split
from guidebook.runs.arrays import built

log = logging.getLogger(__name__)


def mapped(data: Data, folder: Path, split: str) -> tuple[Split, list[str], str]:
    """A split of the parquet files in a folder, memory-mapped at its resolution; the bad rows by name; a fingerprint.

    A bad row has the image and the label of the next whole one of its row group. Raises DataError, and OSError where the disk is full.
    """
    entry = CATALOG[data.name]
    files, every = parquet_files(folder, entry.tests if split == "test" else split)
    if not every:
        there = f"only {', '.join(f.name for f in files)[:200]}" if files else "no file"
        raise DataError(
            f"data set {data.name}: {there} of the {split} split in {folder.name}; both splits are needed, whole"
        )
    shards = Shards(
        files, entry.image, entry.label, 2 ** len(entry.classes) if entry.attributes else len(entry.classes)
    )
    n = min(shards.rows, data.limit or shards.rows)
    cuts = [group.first for group in shards.groups if group.first < n] + [n]
    place = runs() / "data" / f"mapped-{shards.fingerprint}-{n}-{data.resolution}-v{VERSION}"
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def make(first: int, end: int) -> tuple[dict[str, np.ndarray], list[str]]:
        quiet()
        group = shards.group_of(first)
        with ThreadPoolExecutor(threads, "decode") as pool:
            rows = itertools.islice(shards.read(group), end - first)
            done = list(pool.map(lambda row: _decoded(row, data.resolution), rows))
        bad = [f"{shards.name(row.number)}: {found}" for row, found in done if isinstance(found, BadImage)]
        if len(bad) == len(done):
            raise DataError(f"no image of {shards.name(first)} and the rows after it can be read: {bad[0]}")
        for i in reversed(range(len(done))):
            if isinstance(done[i][1], BadImage):
                done[i] = (
                    done[(i + 1) % len(done)]
                    if i + 1 < len(done)
                    else next(d for d in done if not isinstance(d[1], BadImage))
                )
        return {"images": np.stack([p for _, p in done]), "labels": np.array([row.label for row, _ in done])}, bad

    shapes = {"images": ((3, data.resolution, data.resolution), np.uint8), "labels": ((), np.int64)}
    found = built(place, cuts, shapes, make, f"decoding {data.name}/{split}")
    if found.notes:
        log.warning("%s", allow(list(found.notes), len(found.notes), n, entry.bad_share, f"{data.name}/{split}"))
    return (
        Split(*(torch.from_numpy(found[name]) for name in shapes)),
        list(found.notes),
        place.name.removeprefix("mapped-"),
    )


def _decoded(row: Row, side: int) -> tuple[Row, np.ndarray | BadImage]:
    try:
        return row, decode_in_thread(row.raw, 3, side)
    except BadImage as error:
        return row, error

"""Images of one's own: what a folder or parquet files hold, as they say themselves. Imports no torch.

A folder holds PNG and JPEG files, with a `metadata.csv` or `metadata.jsonl` of `file_name` and `text`, or in one folder a class;
parquet files are as the hub writes them. Captions are those of a column `text` or `caption`, else classes are those of a ClassLabel,
else attributes are CelebA's forty columns of booleans, or captions name the columns that are true. Files below `test` or `validation`
are the test split; without them a tenth is held out: of parquet files every tenth row, of a folder the images with the least checksums.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from guidebook.config.datasets import ATTRIBUTES, HELD, DataError, Entry
from guidebook.config.errors import plain
from guidebook.config.rows import LONGEST, of_folder, of_parquet
from guidebook.config.section import Section, Tuple

NAME = "folder"  # what `data.name` calls them
TOGETHER = 64  # image files that are read as one row group
MANY = 50_000  # images from which on they are streamed
PROMPTS = 10  # held-out captions for which samples are drawn
Name = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")]
Count = Annotated[int, Field(ge=1)]


class Contents(Section):
    """Contents of `data.path`, its counts and classes: read from the files where params do not hold it, and kept with the run."""

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    classes: Annotated[tuple[Name, ...], Tuple(1, 1000)]  # or attributes; of captions those that samples are drawn for
    train: Count
    test: Count
    captions: Annotated[int, Field(ge=0)] = 0  # different ones, where images have captions in the place of classes
    split: bool = False  # whether the files have a test split of their own
    image: str = "image"  # column of the images in parquet files

    @property
    def entry(self) -> Entry:
        faces = self.classes == ATTRIBUTES and not self.captions
        kind, n = ("captions", self.captions) if self.captions else ("classes", len(self.classes))
        held = "in a split of their own" if self.split else "a tenth of all"
        note = f"images of one's own: {self.train:,} training and {self.test:,} test images, {held}, with "
        note += "CelebA's attributes" if faces else f"{n:,} {kind}"
        streamed = not self.split and self.train + self.test > MANY
        return Entry(
            self.classes, 3, self.train, self.test, note, stand_in="faces" if faces else "scenes", image=self.image,
            label=ATTRIBUTES if faces else "label", window=2000 if streamed else None, mapped=True, captioned=bool(self.captions),
        )  # fmt: skip


class Own(NamedTuple):
    """Images of one's own: their contents, and where each is."""

    contents: Contents
    files: dict[str, list[str | tuple[str, ...]]]  # by split: parquet files, or image files by the group
    labels: dict[str, list[int]]  # by split, of each row: class, attributes as bits, or which caption
    captions: tuple[str, ...]  # the different ones, those of `classes` first; none where there are classes


@functools.lru_cache(maxsize=4)
def found(path: str) -> Own:
    """The images below a path. Raises DataError, which names the file or the row that is not as it should be."""
    place, digest = Path(path), hashlib.sha256()
    if not place.exists():
        raise DataError(f"data.path: there is no {plain(path)}")
    shards = [place] if place.is_file() else sorted(f for f in place.rglob("*.parquet") if f.is_file())
    rows, names, image = of_parquet(place, shards, digest) if shards else of_folder(place, digest)
    split, n = len({row.held for row in rows}) == 2, len(rows) // HELD
    # Of a folder a tenth is held out by the least checksums: one image more or less moves one other at most
    if not (shards or split):
        held, others = iter(rows[:n]), iter(rows[n:])
        rows = [next(held if i % HELD == HELD - 1 else others) for i in range(len(rows))]
    parts = {"train": [r for r in rows if not (split and r.held)], "test": [r for r in rows if split and r.held]}
    every = [row.text for part in parts.values() for row in part]
    held = every[len(parts["train"]) :] if split else every[HELD - 1 :: HELD]
    if not held:
        raise DataError(f"{plain(path)} holds {len(every)} images: at least ten are needed")
    if names != ATTRIBUTES:  # classes that occur; one alone is a caption
        names = tuple(name for name in names or () if name in set(every))
    prompts = list(dict.fromkeys(held))[:PROMPTS]
    captions = tuple(dict.fromkeys([*prompts, *every])) if len(names) < 2 else ()
    names = captions[: len(prompts)] or names
    known = {name: i for i, name in enumerate(captions or names)}
    labels = {s: [known.get(row.text, row.text) for row in part] for s, part in parts.items()}
    files = {s: list(dict.fromkeys(row.file for row in part)) for s, part in parts.items()}
    if not shards:
        files = {s: [tuple(fs[i : i + TOGETHER]) for i in range(0, len(fs), TOGETHER)] for s, fs in files.items()}
    digest.update(json.dumps([labels, captions or names]).encode())
    counts = {"train": len(every) - len(held), "test": len(held), "captions": len(captions)}
    mark = digest.hexdigest()[:16]
    return Own(Contents(fingerprint=mark, classes=names, split=split, image=image, **counts), files, labels, captions)

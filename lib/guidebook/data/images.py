"""Labelled images: from local parquet files, the hub, or a dependency, all in one form."""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from guidebook.config.datasets import CATALOG, DataError, Entry
from guidebook.config.params import Data
from guidebook.config.paths import runs
from guidebook.config.rows import outlive
from guidebook.data import described, parquet
from guidebook.data.cache import Cache, allow
from guidebook.data.decode import BadImage, decode, quiet
from guidebook.data.drawn import faces, paintings, scenes
from guidebook.data.files import Files, files_of
from guidebook.data.shards import Shards, with_held_out

MANY = 1000  # images that cannot be read, after which no further ones are tried where they are too many
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64: class indices, or attributes as bits

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    train: Split
    test: Split
    classes: tuple[str, ...]  # or attributes
    source: str  # where they came from: "local parquet", "hub", "scikit-learn", "drawn"
    fingerprint: str  # 16 hex digits of all pixels and labels; of a set too large for memory, of files and resolution
    skipped: tuple[str, ...] = ()  # of both splits: "mnist/train row 17: truncated …"
    note: str = ""  # one sentence for the provenance and under figures


class Streamed:
    """A set of images too large for memory. What it has in common with `Images` has the same names; `train` and `test` are
    memory-mapped and decoded when first used, which takes a while. Raises DataError.
    """

    def __init__(self, data: Data, files: Files):
        entry = data.entry
        self.classes, self.window, self.source = entry.classes, entry.window, files.source
        self.note = entry.note + (f"; revision {files.revision}" if files.revision else "") + _limited(data)
        self.shards = Shards(files.train, entry.image, entry.label, entry.labels, data.limit, files.test, files.own)
        self.cache = Cache(data.name, self.shards, data.resolution, entry.bad_share)
        self.fingerprint = self.cache.folder.name.removeprefix("decoded-")

    train = functools.cached_property(lambda self: Split(*self.cache.split("train")))
    test = functools.cached_property(lambda self: Split(*self.cache.split("test")))
    skipped = property(lambda self: self.cache.skipped)

    def decoded(self) -> Images:
        """Both splits, decoded now: for a training that shuffles something smaller, such as the latents."""
        train, test = self.train, self.test
        return Images(train, test, self.classes, self.source, self.fingerprint, self.skipped, self.note)


@functools.lru_cache(maxsize=4)
def load(data: Data) -> Images | Streamed:
    """The images of a data section at its resolution: resized to it, or drawn at it. A set too large for memory is streamed.

    Images that cannot be read are skipped, counted over the whole split whatever `limit` says. Raises DataError where the files
    are not to be had, or more than the entry's `bad_share` of a split cannot be read.
    """
    if data.name in EMBEDDED:
        return _embedded(data)
    entry = data.entry
    files = files_of(data) if entry.stand_in else _paintings(data)
    described.named_alike(data, files)
    if entry.window:
        return Streamed(data, files)
    return Streamed(data, files).decoded() if entry.mapped else _read(data, files)


def spread(data: Images | Streamed, most: int) -> Split:
    """So many of the held-out images at most, from the first to the last; of a stream none but these is decoded. Raises DataError."""
    streams = isinstance(data, Streamed)
    held = (
        data.shards.held_out(torch.arange(data.shards.rows)).argwhere()[:, 0]
        if streams
        else torch.arange(len(data.test))
    )
    rows = held[torch.linspace(0, len(held) - 1, min(most, len(held))).long()]
    return Split(*data.cache.some(rows.tolist())) if streams else Split(data.test.images[rows], data.test.labels[rows])


def to_uint8(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Model values in [low, high] to pixels 0 … 255, rounded and clipped."""
    return ((x.float() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Images (N, C, S, S) uint8 as (N, C, side, side): bilinear and antialiased, as they are where S = side."""
    if pixels.shape[-1] == side:
        return pixels
    return to_uint8(F.interpolate(pixels.float(), side, mode="bilinear", antialias=True), 0, 255)


def from_uint8(pixels: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Pixels 0 … 255 to model values in [low, high]."""
    return pixels.float() * ((high - low) / 255) + low


def _embedded(data: Data) -> Images:
    """Both splits of a set that is made at once, no more than the limit: seed 0 is the training split, 1 the test split.

    Of some of its classes, the images that the whole set has of them.
    """
    entry, whole, (source, make) = data.entry, CATALOG[data.name], EMBEDDED[data.name]
    sizes = (rows if entry.numbers else min(rows, data.limit or rows) for rows in (whole.train, whole.test))
    made = (make(n, seed, data.resolution) for seed, n in enumerate(sizes))
    splits = [Split(images, labels if labels.ndim == 1 else packed(labels)) for images, labels in made]
    if entry.numbers:
        splits = [_of_classes(split, entry.numbers) for split in splits]
    return _resident(data, source, splits)


def _of_classes(split: Split, numbers: Sequence[int]) -> Split:
    """The images of some classes, which are numbered anew in this order."""
    order = torch.tensor(numbers)
    rows = torch.isin(split.labels, order)
    return Split(split.images[rows], (split.labels[rows, None] == order).int().argmax(1))


def _digits(n: int, seed: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits, one image in five held out for the test split."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8))[:, None]  # 0 … 16 to 0 … 255
    labels = torch.from_numpy(raw.target.astype(np.int64))
    # The file runs through its writers in blocks: a fixed shuffle puts every writer in both splits.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held = len(labels) // 5 + 1
    chosen = (shuffled[:held] if seed else shuffled[held:])[:n]
    return images[chosen], labels[chosen]


# Source, and what makes the first `n` images (N, C, H, W) uint8 of a split with their labels (N,) or attributes (N, K) bool
EMBEDDED = {"digits": ("scikit-learn", _digits), "scenes": ("drawn", scenes.drawn), "faces": ("drawn", faces.drawn)}


def _paintings(data: Data) -> Files:
    """The files of the drawn paintings, as many as the limit needs; painted now where they are not there yet."""
    every = data.entry.train + data.entry.test
    rows = min(every, with_held_out(data.limit)) if data.limit else every
    return Files("drawn", sorted(paintings.drawn(runs() / "data", rows).glob("train-*.parquet")), [])


def _read(data: Data, files: Files) -> Images:
    """Both splits of a set that fits memory. Raises DataError."""
    quiet()
    outlive([*files.train, *files.test])
    entry, note = data.entry, ""
    parts = [decoded(entry, f"{data.name}/{split}", getattr(files, split)) for split in ("train", "test")]
    splits, skipped, jpegs = zip(*parts, strict=True)
    if entry.codec == "PNG" and (n := sum(jpegs)):
        rows = sum(map(len, splits))
        which = "the files at hand are" if n == rows else f"{n:,} of the {rows:,} files at hand are"
        note = f"; {which} lossy JPEG copies of the published PNGs: every distance to them carries that offset"
    return _resident(data, files.source, splits, (*skipped[0], *skipped[1]), note)


def decoded(entry: Entry, where: str, files: list[Path]) -> tuple[Split, list[str], int]:
    """One split from its parquet files, the names of the rows that were skipped, and how many of the others are JPEGs.

    Raises DataError.
    """
    good, skipped = [], []
    every = parquet.count(files)
    rows = (row for file in files for row in parquet.rows(str(file), entry.image, entry.label))
    for i, (raw, label) in enumerate(rows):
        number = parquet.class_of(label, entry.labels, f"{where} row {i}")
        try:
            good.append((decode(raw, entry.channels), number, i, raw.startswith(b"\xff\xd8")))
        except BadImage as error:
            skipped.append(f"{where} row {i}: {error}")
            if len(skipped) > max(MANY, entry.bad_share * every):  # millions of rows may take no more than some kB
                break
    shapes = Counter(pixels.shape for pixels, *_ in good)
    shape = max(shapes, key=shapes.get, default=None)
    for pixels, _, i, _ in good:
        if pixels.shape != shape:
            (h, w), (height, width) = pixels.shape[1:], shape[1:]
            skipped.append(f"{where} row {i}: {w} × {h} pixels, where most have {width} × {height}")
    if skipped:
        log.warning("%s", allow(skipped, len(skipped), every, entry.bad_share, where))
    if not good:
        raise DataError(f"{where} holds no images: check {files[0].parent}")
    good = [g for g in good if g[0].shape == shape]
    images, labels = np.stack([g[0] for g in good]), torch.tensor([g[1] for g in good], dtype=torch.int64)
    return Split(torch.from_numpy(images), labels), skipped, sum(g[3] for g in good)


def _resident(
    data: Data, source: str, splits: Sequence[Split], skipped: tuple[str, ...] = (), note: str = ""
) -> Images:
    """Splits in memory, no more than the limit and at the resolution of `data`, with the fingerprint of their pixels and labels."""
    entry, pixels, fitting = data.entry, hashlib.sha256(), []
    for split in splits:
        images, labels = resized(split.images[: data.limit], data.resolution), split.labels[: data.limit]
        pixels.update(images.numpy().tobytes() + labels.numpy().tobytes())
        fitting.append(Split(images, labels))
    return Images(*fitting, entry.classes, source, pixels.hexdigest()[:16], skipped, entry.note + note + _limited(data))


def _limited(data: Data) -> str:
    return f"; of each split the first {data.limit:,} at most are used" if data.limit else ""


def packed(attributes: torch.Tensor) -> torch.Tensor:
    """Attributes (N, K) bool as numbers (N,) int64 whose bit i is the i-th attribute, K ≤ 62."""
    return (attributes.long() << torch.arange(attributes.shape[1], device=attributes.device)).sum(1)


def unpacked(labels: torch.Tensor, k: int) -> torch.Tensor:
    """The first k attributes (N, k) bool of numbers (N,) int64."""
    return (labels[:, None] >> torch.arange(k, device=labels.device) & 1).bool()

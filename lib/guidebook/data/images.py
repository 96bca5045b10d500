"""Labelled images: from local parquet files, the hub, or a dependency, all in one form."""

import functools
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from guidebook.config.datasets import CATALOG, SPLITS, DataError, Entry, allow, parquet_files
from guidebook.config.params import Data
from guidebook.config.paths import local_data, runs
from guidebook.data import hub, parquet
from guidebook.data.cache import Cache
from guidebook.data.decode import BadImage, decode
from guidebook.data.shards import HELD, Shards
from guidebook.runtime.seeds import generator, seed_of

FILES = 6  # that the drawn paintings are written to
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

    def __init__(self, data: Data):
        entry = CATALOG[data.name]
        self.classes, self.window = entry.classes, entry.window
        self.source, files, where = hub.streamed(data.name) if entry.hub else ("drawn", _paintings(data, entry), "")
        self.note = entry.note + where
        self.shards = Shards(files, entry.image, entry.label, len(entry.classes), data.limit)
        self.cache = Cache(data.name, self.shards, data.resolution, entry.bad_share)
        self.fingerprint = self.cache.folder.name.removeprefix("decoded-")

    train = functools.cached_property(lambda self: Split(*self.cache.split("train")))
    test = functools.cached_property(lambda self: Split(*self.cache.split("test")))
    skipped = property(lambda self: self.cache.skipped)


@functools.lru_cache(maxsize=4)
def load(data: Data) -> Images | Streamed:
    """The images of a data section at its resolution: resized to it, or drawn at it. A set too large for memory is streamed.

    Looks in `$GUIDEBOOK_DATA/<name>/{train,test}-*.parquet`, then in the hub's cache, then on the hub. Images that cannot be
    read are skipped, counted over the whole split whatever `limit` says. Raises DataError where none of them has the data, or
    more than the entry's `bad_share` of a split cannot be read.
    """
    entry, note = CATALOG[data.name], CATALOG[data.name].note
    if entry.window:
        return Streamed(data)
    skipped = []
    if entry.hub is None:
        source, splits = ("scikit-learn", _digits()) if data.name == "digits" else ("drawn", _drawn(data))
    else:
        folder = local_data(data.name)
        source, folder = ("local parquet", folder) if folder else ("hub", hub.downloaded(data.name))
        if entry.mapped:
            return _mapped(data, folder, source)
        splits, names, jpegs = zip(*(_parquet(folder, data.name, split, entry) for split in SPLITS), strict=True)
        skipped = [*names[0], *names[1]]
        if entry.codec == "PNG" and (n := sum(jpegs)):
            rows = sum(map(len, splits))
            which = "the files at hand are" if n == rows else f"{n:,} of the {rows:,} files at hand are"
            note += f"; {which} lossy JPEG copies of the published PNGs: every distance to them carries that offset"
    splits = [_fit(split, data) for split in splits]
    pixels = hashlib.sha256()
    for split in splits:
        pixels.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return Images(*splits, entry.classes, source, pixels.hexdigest()[:16], tuple(skipped), note)


def order(n: int, seed: int, start: int, count: int) -> torch.Tensor:
    """Indices (count,) of the samples seen as number `start` … `start + count - 1`.

    Every epoch is a permutation of all `n` samples, a function of (seed, epoch) alone; a batch may span two epochs.
    """
    first, last = start // n, (start + count - 1) // n
    stream = torch.cat([_permutation(n, seed, epoch) for epoch in range(first, last + 1)])
    return stream[start - first * n :][:count]


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def to_uint8(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Model values in [low, high] to pixels 0 … 255, rounded and clipped."""
    return ((x.float() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Pixels 0 … 255 to model values in [low, high]."""
    return pixels.float() * ((high - low) / 255) + low


def _fit(split: Split, data: Data) -> Split:
    images, labels = split.images[: data.limit], split.labels[: data.limit]
    if images.shape[-1] != data.resolution:
        size = (data.resolution, data.resolution)
        images = to_uint8(F.interpolate(images.float(), size, mode="bilinear", antialias=True), 0, 255)
    return Split(images, labels)


def _digits() -> list[Split]:
    """scikit-learn's digits, one image in five held out for the test split."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8))[:, None]  # 0 … 16 to 0 … 255
    labels = torch.from_numpy(raw.target.astype(np.int64))
    # The file runs through its writers in blocks: a fixed shuffle puts every writer in both splits.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = shuffled[: len(labels) // 5 + 1], shuffled[len(labels) // 5 + 1 :]
    return [Split(images[i], labels[i]) for i in (train, test)]


def _drawn(data: Data) -> list[Split]:
    """Scenes or faces at the resolution of `data`, no more than its limit: seed 0 is the training split, 1 the test split."""
    from guidebook.data.drawn import faces, scenes

    entry, splits = CATALOG[data.name], []
    for seed, rows in enumerate((entry.train, entry.test)):
        n = min(rows, data.limit or rows)
        if data.name == "faces":
            attributes, seeds = faces.random_attributes(n, seed), [seed_of("face", seed, i) for i in range(n)]
            splits.append(Split(faces.render(attributes, seeds, data.resolution), packed(attributes)))
        else:
            drawn = scenes.random_scenes(n, seed)
            labels = torch.tensor([scenes.KINDS.index(scene.kind) for scene in drawn])
            splits.append(Split(scenes.render(drawn, data.resolution), labels))
    return splits


def _paintings(data: Data, entry: Entry) -> list[Path]:
    """The files of the drawn paintings, as many as the limit needs; painted now where they are not there yet."""
    from guidebook.data.drawn import paintings

    every = entry.train + entry.test
    rows = min(every, data.limit + (data.limit - 1) // (HELD - 1)) if data.limit else every
    return parquet_files(paintings.drawn(runs() / "data", rows, seed=0, files=FILES), "train")[0]


def _mapped(data: Data, folder: Path, source: str) -> Images:
    """Both splits of a set too large for memory whose training shuffles something smaller, such as its latents: decoded now."""
    entry = CATALOG[data.name]
    classes = 2 ** len(entry.classes) if entry.attributes else len(entry.classes)
    train, test = (hub.split_files(folder, data.name, split) for split in SPLITS)
    shards = Shards(train, entry.image, entry.label, classes, data.limit, test)
    cache = Cache(data.name, shards, data.resolution, entry.bad_share)
    splits = (Split(*cache.split(split)) for split in SPLITS)
    fingerprint = cache.folder.name.removeprefix("decoded-")
    return Images(*splits, entry.classes, source, fingerprint, cache.skipped, entry.note)


def _parquet(folder: Path, name: str, split: str, entry: Entry) -> tuple[Split, list[str], int]:
    """One split from its parquet files, the names of the rows that were skipped, and how many of the others are JPEGs.

    Raises DataError.
    """
    files = hub.split_files(folder, name, split)
    rows = [row for file in files for row in parquet.rows(str(file), entry.image, entry.label)]
    good, skipped, where = [], [], f"{name}/{split}"
    for i, (raw, label) in enumerate(rows):
        if label is None:
            raise DataError(f"{where} row {i} has no label")
        try:
            good.append((decode(raw, entry.channels), label, i, raw.startswith(b"\xff\xd8")))
        except BadImage as error:
            skipped.append(f"{where} row {i}: {error}")
    shapes = Counter(pixels.shape for pixels, *_ in good)
    shape = max(shapes, key=shapes.get, default=None)
    for pixels, _, i, _ in good:
        if pixels.shape != shape:
            (h, w), (height, width) = pixels.shape[1:], shape[1:]
            skipped.append(f"{where} row {i}: {w} × {h} pixels, where most have {width} × {height}")
    if skipped:
        log.warning("%s", allow(skipped, len(skipped), len(rows), entry.bad_share, where))
    if not good:
        raise DataError(f"{where} holds no images: check {folder}")
    good = [g for g in good if g[0].shape == shape]
    images, labels = np.stack([g[0] for g in good]), torch.tensor([g[1] for g in good], dtype=torch.int64)
    return Split(torch.from_numpy(images), labels), skipped, sum(g[3] for g in good)


def packed(attributes: torch.Tensor) -> torch.Tensor:
    """Attributes (N, K) bool as numbers (N,) int64 whose bit i is the i-th attribute, K ≤ 62."""
    return (attributes.long() << torch.arange(attributes.shape[1], device=attributes.device)).sum(1)


def unpacked(labels: torch.Tensor, k: int) -> torch.Tensor:
    """The first k attributes (N, k) bool of numbers (N,) int64."""
    return (labels[:, None] >> torch.arange(k, device=labels.device) & 1).bool()

"""Labelled images in memory: from local parquet files, the hub, or a dependency, all in one form."""

import functools
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from guidebook.data.catalog import CATALOG
from guidebook.params import Data
from guidebook.paths import local_data
from guidebook.rng import seed_of


class DataError(RuntimeError):
    """A data set that is not at hand or does not hold what it should."""


@dataclass(frozen=True)
class Split:
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str  # where they came from: "local parquet", "hub", "scikit-learn"
    fingerprint: str  # 16 hex digits of every pixel and label


@functools.lru_cache(maxsize=4)
def load(data: Data) -> Images:
    """The images of a data section, resized to its resolution.

    Looks in `$GUIDEBOOK_DATA/<name>/{train,test}-*.parquet`, then on the hub. Raises DataError where neither has it.
    """
    entry = CATALOG[data.name]
    if entry.hub is None:
        source, splits = "scikit-learn", _digits()
    elif folder := local_data(data.name):
        source, splits = "local parquet", [_parquet(folder, split, entry) for split in ("train", "test")]
    else:
        source, splits = "hub", _hub(data.name, entry)
    splits = [_fit(split, data) for split in splits]
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return Images(*splits, entry.classes, source, digest.hexdigest()[:16])


def order(n: int, seed: int, start: int, count: int) -> torch.Tensor:
    """Indices (count,) of the samples seen as number `start` … `start + count - 1`.

    Every epoch is a permutation of all `n` samples, a function of (seed, epoch) alone; a batch may span two epochs.
    """
    first, last = start // n, (start + count - 1) // n
    stream = torch.cat([_permutation(n, seed, epoch) for epoch in range(first, last + 1)])
    return stream[start - first * n :][:count]


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(n, generator=rng)


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


def _parquet(folder, split: str, entry) -> Split:
    import pyarrow.parquet as pq

    tables = [pq.read_table(f, columns=[entry.image, entry.label]) for f in sorted(folder.glob(f"{split}-*.parquet"))]
    if not tables:
        raise DataError(f"no {split}-*.parquet in $GUIDEBOOK_DATA/{folder.name}; both splits are needed")
    rows = [
        (cell["bytes"], label)
        for t in tables
        for cell, label in zip(*(t[c].to_pylist() for c in t.column_names), strict=True)
    ]
    return _split(
        (_decode(raw, f"{folder.name}/{split} row {i}", entry) for i, (raw, _) in enumerate(rows)), [r[1] for r in rows]
    )


def _hub(name: str, entry) -> list[Split]:
    import datasets

    try:
        loaded = datasets.load_dataset(entry.hub, revision=entry.revision)
    except Exception as error:
        raise DataError(
            f"data set {name}: no $GUIDEBOOK_DATA/{name}/train-*.parquet, and the hub did not give {entry.hub} "
            f"({type(error).__name__}); put the hub's parquet files there, or set data.name=digits"
        ) from error
    raw = loaded.cast_column(entry.image, datasets.Image(decode=False))
    return [
        _split(
            (_decode(row[entry.image]["bytes"], f"{name}/{s} row {i}", entry) for i, row in enumerate(raw[s])),
            raw[s][entry.label],
        )
        for s in ("train", "test")
    ]


def _decode(raw: bytes, where: str, entry) -> np.ndarray:
    """(C, H, W) uint8 of one encoded image, fully decoded: a truncated file raises."""
    try:
        with Image.open(io.BytesIO(raw), formats=["PNG", "JPEG"]) as image:
            pixels = np.asarray(image.convert("L" if entry.channels == 1 else "RGB"))
    except Exception as error:
        raise DataError(f"{where} is not a whole PNG or JPEG image ({type(error).__name__})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _split(images, labels) -> Split:
    return Split(torch.from_numpy(np.stack(list(images))), torch.tensor(labels, dtype=torch.int64))

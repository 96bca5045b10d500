"""Labelled images in memory: from local parquet files, the hub, or a dependency, all in one form."""

import functools
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from guidebook.data.catalog import CATALOG, SPLITS, Entry, parquet_files, snapshot, whole
from guidebook.data.decode import BadImage, decode
from guidebook.params import Data
from guidebook.paths import local_data
from guidebook.rng import seed_of

log = logging.getLogger(__name__)
# The share of a split's images that may be skipped, 1 in 1,000: too few to move a result. In a split of fewer than 1,000
# one bad image is already too many.
BAD_SHARE = 0.001


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
    source: str  # where they came from: "local parquet", "hub", "scikit-learn", "drawn"
    fingerprint: str  # 16 hex digits of every pixel and label
    skipped: tuple[str, ...] = ()  # of both splits: "mnist/train row 17: truncated …"
    note: str = ""  # one sentence for the provenance and under figures


@functools.lru_cache(maxsize=4)
def load(data: Data) -> Images:
    """The images of a data section at its resolution: resized to it, or drawn at it.

    Looks in `$GUIDEBOOK_DATA/<name>/{train,test}-*.parquet`, then in the hub's cache, then on the hub. Images that cannot be
    read are skipped, counted over the whole split whatever `limit` says. Raises DataError where none of them has the data, or
    more than `BAD_SHARE` of a split cannot be read.
    """
    entry, note = CATALOG[data.name], CATALOG[data.name].note
    skipped = []
    if entry.hub is None:
        source, splits = ("drawn", _scenes(data)) if data.name == "scenes" else ("scikit-learn", _digits())
    else:
        folder = local_data(data.name)
        source, folder = ("local parquet", folder) if folder else ("hub", _hub(data.name, entry))
        splits, names, jpegs = zip(*(_parquet(folder, data.name, split, entry) for split in SPLITS), strict=True)
        skipped = [*names[0], *names[1]]
        if entry.codec == "PNG" and sum(jpegs):
            note += f"; {_jpeg(sum(jpegs), sum(map(len, splits)))}"
    splits = [_fit(split, data) for split in splits]
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return Images(*splits, entry.classes, source, digest.hexdigest()[:16], tuple(skipped), note)


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


def _scenes(data: Data) -> list[Split]:
    """Drawn objects at the resolution of `data`, no more than its limit: seed 0 is the training split, 1 the test split."""
    from guidebook.data.scenes import KINDS, random_scenes, render

    entry, splits = CATALOG["scenes"], []
    for seed, rows in enumerate((entry.train, entry.test)):
        scenes = random_scenes(min(rows, data.limit or rows), seed)
        labels = torch.tensor([KINDS.index(scene.things[0].kind) for scene in scenes])
        splits.append(Split(render(scenes, data.resolution), labels))
    return splits


def _jpeg(n: int, rows: int) -> str:
    which = "the files at hand are" if n == rows else f"{n:,} of the {rows:,} files at hand are"
    return f"{which} lossy JPEG copies of the published PNGs: every distance to them carries that offset"


def _parquet(folder: Path, name: str, split: str, entry: Entry) -> tuple[Split, list[str], int]:
    """One split from its parquet files, the names of the rows that were skipped, and how many of the others are JPEGs.

    Raises DataError.
    """
    files, every = parquet_files(folder, split)
    if not every:
        some = (
            f"only {', '.join(f.name for f in files)[:200]} of the {split}-*.parquet"
            if files
            else f"no {split}-*.parquet"
        )
        raise DataError(f"data set {name}: {some} in {_place(folder, name)}; both splits are needed, whole")
    rows = [row for file in files for row in _rows(file, entry)]
    good, skipped = [], []
    for i, (raw, label) in enumerate(rows):
        where = f"{name}/{split} row {i}"
        if label is None:
            raise DataError(f"{where} has no label")
        try:
            good.append((decode(raw, entry.channels), label, where, raw.startswith(b"\xff\xd8")))
        except BadImage as error:
            skipped.append(f"{where}: {error}")
    shapes = Counter(pixels.shape for pixels, *_ in good)
    shape = max(shapes, key=shapes.get, default=None)
    for pixels, _, where, _ in good:
        if pixels.shape != shape:
            (h, w), (height, width) = pixels.shape[1:], shape[1:]
            skipped.append(f"{where}: {w} × {h} pixels, where most have {width} × {height}")
    if skipped:
        _allow(skipped, len(rows), f"{name}/{split}")
    if not good:
        raise DataError(f"{name}/{split} holds no images: check {_place(folder, name)}")
    good = [g for g in good if g[0].shape == shape]
    images, labels = np.stack([g[0] for g in good]), torch.tensor([g[1] for g in good], dtype=torch.int64)
    return Split(torch.from_numpy(images), labels), skipped, sum(g[3] for g in good)


def _rows(file: Path, entry: Entry) -> list[tuple[bytes | None, int | None]]:
    """(bytes of the image file, class index) of each row. The `path` beside the bytes is never opened. Raises DataError."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=[entry.image, entry.label])
        images = pc.struct_field(table[entry.image], "bytes").to_pylist()
        if not pa.types.is_integer(table[entry.label].type):
            raise TypeError(f"{entry.label} is {table[entry.label].type}")
        labels = table[entry.label].to_pylist()
    except (OSError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(
            f"{file.name} is not a whole parquet file with the columns {entry.image} {{bytes, path}} and {entry.label} "
            f"(whole numbers): {' '.join(str(error).split())[:200]}"
        ) from None
    return list(zip(images, labels, strict=True))


def _allow(skipped: list[str], rows: int, where: str) -> None:
    """Says what was skipped. Raises DataError where that is more than `BAD_SHARE` of the rows."""
    named = "; ".join(skipped[:5]) + ("; …" if len(skipped) > 5 else "")
    said = f"{where}: {len(skipped):,} of {rows:,} images ({len(skipped) / rows:.2%}) cannot be read"
    if len(skipped) > BAD_SHARE * rows:
        raise DataError(f"{said}, {BAD_SHARE:.2%} may be skipped: {named}; put whole files in their place")
    log.warning("%s and are skipped: %s", said, named)


def _place(folder: Path, name: str) -> str:
    return f"$GUIDEBOOK_DATA/{name}" if folder == local_data(name) else str(folder)


def _hub(name: str, entry: Entry) -> Path:
    """The folder of the hub's parquet files at the pinned revision: in the cache, else downloaded into it. Raises DataError."""
    if folder := snapshot(name):
        return folder
    from huggingface_hub import snapshot_download

    pinned = {"repo_type": "dataset", "revision": entry.revision, "allow_patterns": ["*.parquet"]}
    try:
        folder = Path(snapshot_download(entry.hub, **pinned))
        failed = None if whole(folder) else "files are missing"  # offline, it gives what the cache has of them
    except Exception as error:  # of the network, the hub, the disk: what matters here is what to do
        failed = type(error).__name__
    if failed:
        raise DataError(
            f"data set {name}: no $GUIDEBOOK_DATA/{name}/train-*.parquet, not in the hub's cache, and the hub did not give "
            f"{entry.hub} ({failed}); run `guidebook fetch EXPERIMENT` on a machine with internet, or put the hub's "
            f"parquet files into $GUIDEBOOK_DATA/{name}, or set data.name={'digits' if entry.channels == 1 else 'scenes'}"
        )
    return folder

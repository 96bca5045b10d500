"""Ways to get batches out of parquet shards: a thesis's three, those of libraries that people take, and this library's own.

Each is a generator of (images (B, 3, R, R) uint8, labels (B,)) without end, on the same bytes, with the same number of workers. All
but the library's own decode an image whole and then resize it, as they do; one says so where it decodes as this library does.
"""

import functools
import io
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from guidebook.data.batches import Stream
from guidebook.data.cache import Cache
from guidebook.data.decode import BadImage, decode
from guidebook.data.shards import Shards

SIDE, BATCH, WORKERS = 128, 16, 2  # pixels, images, threads or processes
BUFFER, KEPT = 1000, 5  # rows that are shuffled, of all workers together; files that an LRU keeps
LIBRARIES = ("datasets", "webdataset")  # that some ways import


def shards(folder: Path) -> Shards:
    return Shards(sorted(folder.glob("train-*.parquet")), "image", "style", range(27))


def cache(folder: Path) -> Cache:
    """This library's decoded images, below the folder."""
    os.environ["GUIDEBOOK_RUNS"] = str(folder / "runs")
    return Cache("bench", shards(folder), SIDE, 0.02)


def stream(folder: Path, start: int = 0, threads: int = WORKERS) -> Stream:
    """This library's own, from an image on; what it decodes is not kept."""
    kept = cache(folder)
    return Stream(SimpleNamespace(shards=kept.shards, cache=kept, window=BUFFER), 0, start, decoders=threads)


def whole(image: Image.Image) -> np.ndarray:
    """An image (3, SIDE, SIDE) uint8: decoded whole, its shorter side made SIDE pixels, cut to the middle; by Pillow."""
    sizes = [int(SIDE * length / min(image.size)) for length in image.size]
    x, y = (round((size - SIDE) / 2) for size in sizes)
    small = image.convert("RGB").resize(sizes, Image.Resampling.BILINEAR)
    return np.asarray(small.crop((x, y, x + SIDE, y + SIDE))).transpose(2, 0, 1)


def plain(raw: bytes) -> np.ndarray | None:
    """An image as other loaders decode it; None where it is broken."""
    try:
        return whole(Image.open(io.BytesIO(raw)))
    except (OSError, SyntaxError):
        return None


def scaled(raw: bytes) -> np.ndarray | None:
    """An image as this library decodes it."""
    try:
        return decode(raw, 3, SIDE)
    except BadImage:
        return None


class Rows(Dataset):
    """Any row of any file, each time from a file that is read whole; the last `keep` files are kept."""

    def __init__(self, files: list[Path], keep: int):
        self.files, self.keep = files, keep
        self.index = [(f, i) for f, file in enumerate(files) for i in range(pq.read_metadata(file).num_rows)]

    def __len__(self) -> int:
        return len(self.index)

    @functools.cached_property
    def read(self):
        return functools.lru_cache(self.keep)(lambda f: pq.read_table(self.files[f]))

    def __getitem__(self, at: int) -> tuple[np.ndarray | None, int]:
        f, i = self.index[at]
        row = self.read(f).slice(i, 1).to_pylist()[0]
        return plain(row["image"]["bytes"]), row["style"]


class Small(Dataset):
    """Decoded images, a file each."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.bin"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        file = self.files[at]
        return np.fromfile(file, np.uint8).reshape(3, SIDE, SIDE), int(file.stem.split("-")[1])


class Each(IterableDataset):
    """What `make()` gives in a worker."""

    def __init__(self, make: Callable[[], Iterator]):
        self.make = make

    def __iter__(self):
        return self.make()


def _in_turn(files: list[Path]) -> Iterator:
    """File after file in random order, each held whole and its rows shuffled; workers share the files."""
    worker = get_worker_info()
    order = random.Random(worker.seed - worker.id).sample(files, len(files))
    for file in order[worker.id :: worker.num_workers]:
        table = pq.read_table(file)
        for i in random.sample(range(len(table)), len(table)):
            row = table.slice(i, 1).to_pylist()[0]
            yield plain(row["image"]["bytes"]), row["style"]


def _loaded(data, **options) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Without end, as a loader with workers gives it."""
    # Forked, as Linux does by itself: what they import, they share.
    workers = {"num_workers": WORKERS, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = DataLoader(data, batch_size=BATCH, collate_fn=_collated, **workers, **options)
    while True:
        yield from (batch for batch in loader if batch)


def _collated(rows: list) -> tuple[torch.Tensor, torch.Tensor] | None:
    good = [(image, label) for image, label in rows if image is not None]
    return (torch.from_numpy(np.stack([i for i, _ in good])), torch.tensor([k for _, k in good])) if good else None


def by_row(folder: Path, keep: int = 0):
    return _loaded(Rows(sorted(folder.glob("*.parquet")), keep), shuffle=True)


def by_file(folder: Path):
    return _loaded(Each(functools.partial(_in_turn, sorted(folder.glob("*.parquet")))))


def datasets_streaming(folder: Path, decode=plain):
    """`datasets` with its shuffle buffer; workers share the stream by its own rules."""
    import datasets

    files = {"train": [str(f) for f in sorted(folder.glob("*.parquet"))]}
    rows = datasets.load_dataset("parquet", data_files=files, streaming=True)["train"]
    rows = rows.cast_column("image", datasets.Image(decode=False)).shuffle(seed=0, buffer_size=BUFFER // WORKERS)
    return _loaded(Each(lambda: ((decode(row["image"]["bytes"]), row["style"]) for row in rows)))


def webdataset(folder: Path):
    """WebDataset's tar files of the same bytes, with its shuffle buffer."""
    import webdataset as wds

    found = wds.WebDataset([str(t) for t in sorted((folder / "tars").glob("*.tar"))], shardshuffle=100, seed=0)
    rows = found.shuffle(BUFFER // WORKERS).to_tuple("jpg", "cls")
    return _loaded(rows.map(lambda pair: (plain(pair[0]), int(pair[1]))))


def decoded_files(folder: Path):
    return _loaded(Small(folder / "small"), shuffle=True)


def ours(folder: Path):
    with stream(folder) as found:
        while True:
            yield found.next(BATCH)


def ours_decoded(folder: Path):
    rows, (images, labels) = shards(folder), cache(folder).split("train")
    for start in itertools.count(0, BATCH):
        chosen = rows.place("train", rows.order(0, start, BATCH, BUFFER))
        yield images[chosen], labels[chosen]


def prepare(folder: Path) -> None:
    """Writes the shards' rows in the other forms that some ways read, each image decoded among them."""
    import webdataset as wds

    for name in ("tars", "small"):
        (folder / name).mkdir()
    for file in sorted(folder.glob("*.parquet")):
        with wds.TarWriter(str(folder / "tars" / f"{file.stem}.tar"), encoder=False) as out:
            for i, row in enumerate(pq.read_table(file).to_pylist()):
                label = str(row["style"]).encode()
                out.write({"__key__": f"{file.stem}-{i:05}", "jpg": row["image"]["bytes"], "cls": label})
    for i, (image, label) in enumerate(zip(*cache(folder).split("train"), strict=True)):
        image.numpy().tofile(folder / "small" / f"{i:06}-{label}.bin")


WAYS = {
    "random access": by_row, "LRU of 5 files": functools.partial(by_row, keep=KEPT), "file-sequential": by_file,
    "datasets, streaming": datasets_streaming, "datasets, our decoder": functools.partial(datasets_streaming, decode=scaled),
    "WebDataset": webdataset, "DataLoader, decoded files": decoded_files, "guidebook, first epoch": ours,
    "guidebook, decoded": ours_decoded,
}  # fmt: skip

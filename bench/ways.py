"""Ways to get batches out of parquet shards: a thesis's three, those of libraries that people take, and this library's own.

Each is a generator of (images (B, 3, R, R) uint8, labels (B,)) without end, on the same bytes, with the same number of workers. All
but the library's own decode an image whole and then resize it, as they do; one says so where it decodes as this library does.
"""

import functools
import io
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from guidebook.data.decoded import Filling, opened, place
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from guidebook.data.batches import Stream
from guidebook.data.decode import BadImage, decode_in_thread
from guidebook.data.shards import Shards

SIDE, BATCH, WORKERS = 128, 16, 2  # pixels, images, threads or processes
BUFFER, KEPT = 1000, 5  # rows that are shuffled, of all workers together; files that an LRU keeps


def shards(folder: Path) -> Shards:
    return Shards(sorted(folder.glob("train-*.parquet")), "image", "style", 27)


def stream(folder: Path, start: int = 0, threads: int = WORKERS, keep: Filling | None = None) -> Stream:
    """This library's own, from an image on."""
    return Stream(shards(folder), SIDE, 0, BUFFER, start, 1, threads, 64, 0.02, {}, keep)


def whole(image: Image.Image) -> np.ndarray:
    """An image (3, SIDE, SIDE) uint8: decoded whole, its shorter side made SIDE pixels, cut to the middle; by Pillow."""
    sizes = [int(SIDE * length / min(image.size)) for length in image.size]
    x, y = (round((size - SIDE) / 2) for size in sizes)
    small = image.convert("RGB").resize(sizes, Image.Resampling.BILINEAR)
    return np.asarray(small.crop((x, y, x + SIDE, y + SIDE))).transpose(2, 0, 1)


def _image(raw: bytes) -> np.ndarray | None:
    try:
        return whole(Image.open(io.BytesIO(raw)))
    except (OSError, SyntaxError):  # broken
        return None


def _batches(rows: Iterator[tuple[np.ndarray | None, int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    good = ((image, label) for image, label in rows if image is not None)
    while part := list(itertools.islice(good, BATCH)):
        images, labels = zip(*part, strict=True)
        yield torch.from_numpy(np.stack(images)), torch.tensor(labels)


class _Rows(Dataset):
    """Any row of any file, each time from a file that is read whole; the last `keep` files are kept."""

    def __init__(self, folder: Path, keep: int):
        self.files = sorted(folder.glob("*.parquet"))
        self.index = [(f, i) for f, file in enumerate(self.files) for i in range(pq.read_metadata(file).num_rows)]
        self.keep = keep

    def __len__(self) -> int:
        return len(self.index)

    @functools.cached_property
    def read(self):
        return functools.lru_cache(self.keep)(lambda f: pq.read_table(self.files[f]))

    def __getitem__(self, at: int) -> tuple[np.ndarray | None, int]:
        f, i = self.index[at]
        row = self.read(f).slice(i, 1).to_pylist()[0]
        return _image(row["image"]["bytes"]), row["style"]


def _loaded(data, **options) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Without end, as a loader with workers gives it."""
    # Forked, as Linux does by itself: what they import, they share.
    workers = {"num_workers": WORKERS, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = DataLoader(data, batch_size=BATCH, collate_fn=_collated, **workers, **options)
    while True:
        yield from (batch for batch in loader if batch)


def _collated(rows: list) -> tuple[torch.Tensor, torch.Tensor] | None:
    return next(_batches(iter(rows)), None)


def random_access(folder: Path):
    return _loaded(_Rows(folder, keep=0), shuffle=True)


def lru(folder: Path):
    return _loaded(_Rows(folder, keep=KEPT), shuffle=True)


class _Files(IterableDataset):
    """File after file in random order, each held whole and its rows shuffled; workers share the files."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.parquet"))

    def __iter__(self):
        worker = get_worker_info()
        files = random.Random(worker.seed - worker.id).sample(self.files, len(self.files))
        for file in files[worker.id :: worker.num_workers]:
            table = pq.read_table(file)
            for i in random.sample(range(len(table)), len(table)):
                row = table.slice(i, 1).to_pylist()[0]
                yield _image(row["image"]["bytes"]), row["style"]


def file_sequential(folder: Path):
    return _loaded(_Files(folder))


def datasets_streaming(folder: Path, decode=_image):
    """`datasets` with its shuffle buffer."""
    import datasets

    files = {"train": [str(f) for f in sorted(folder.glob("*.parquet"))]}
    stream = datasets.load_dataset("parquet", data_files=files, streaming=True)["train"]
    stream = stream.cast_column("image", datasets.Image(decode=False)).shuffle(seed=0, buffer_size=BUFFER // WORKERS)
    return _loaded(_Decoded(stream, decode))


def datasets_our_decoder(folder: Path):
    return datasets_streaming(folder, _scaled)


def _scaled(raw: bytes) -> np.ndarray | None:
    try:
        return decode_in_thread(raw, 3, SIDE)
    except BadImage:
        return None


class _Decoded(IterableDataset):
    """Decodes the rows of a stream, which workers share by its own rules."""

    def __init__(self, stream, decode):
        self.stream, self.decode = stream, decode

    def __iter__(self):
        for row in self.stream:
            yield self.decode(row["image"]["bytes"]), row["style"]


def webdataset(folder: Path):
    """WebDataset's tar files of the same bytes, with its shuffle buffer."""
    import webdataset as wds

    found = wds.WebDataset([str(t) for t in sorted((folder / "tars").glob("*.tar"))], shardshuffle=100, seed=0)
    return _loaded(found.shuffle(BUFFER // WORKERS).to_tuple("jpg", "cls").map(_entry))


def _entry(pair: tuple[bytes, bytes]) -> tuple[np.ndarray | None, int]:
    return _image(pair[0]), int(pair[1])


class _Small(Dataset):
    """Decoded images, a file each."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.bin"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        file = self.files[at]
        return np.fromfile(file, np.uint8).reshape(3, SIDE, SIDE), int(file.stem.split("-")[1])


def decoded_files(folder: Path):
    return _loaded(_Small(folder / "small"), shuffle=True)


def ours(folder: Path):
    with stream(folder) as found:
        while True:
            yield found.next(BATCH)


def ours_decoded(folder: Path):
    rows, start = shards(folder), 0
    decoded = opened(place(folder, rows, SIDE))
    while True:
        chosen = rows.order(0, start, BATCH, BUFFER)
        yield decoded.images(chosen), torch.from_numpy(decoded.labels[chosen])
        start += BATCH


def prepare(folder: Path) -> None:
    """Writes the shards' rows in the other forms that some ways read, each image decoded among them."""
    import webdataset as wds

    (folder / "tars").mkdir()
    for file in sorted(folder.glob("*.parquet")):
        with wds.TarWriter(str(folder / "tars" / f"{file.stem}.tar"), encoder=False) as out:
            for i, row in enumerate(pq.read_table(file).to_pylist()):
                label = str(row["style"]).encode()
                out.write({"__key__": f"{file.stem}-{i:05}", "jpg": row["image"]["bytes"], "cls": label})
    found = shards(folder)
    filling = Filling(place(folder, found, SIDE), found, SIDE)
    with stream(folder, keep=filling) as filled:
        while not (decoded := filling.done()):
            filled.next(BATCH)
    (folder / "small").mkdir()
    for i, (image, label) in enumerate(zip(*decoded.split("train"), strict=True)):
        image.numpy().tofile(folder / "small" / f"{i:06}-{label}.bin")


LIBRARIES = ("datasets", "webdataset")  # that some ways import
WAYS = {
    "random access": random_access, "LRU of 5 files": lru, "file-sequential": file_sequential,
    "datasets, streaming": datasets_streaming, "datasets, our decoder": datasets_our_decoder, "WebDataset": webdataset, 
    "DataLoader, decoded files": decoded_files, "guidebook, first epoch": ours, "guidebook, decoded": ours_decoded,
}  # fmt: skip

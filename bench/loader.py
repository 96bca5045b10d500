"""Ways to get batches out of the same shards: the cost of each, and how far it is from decoding alone."""

import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from bench import measuring
from bench.apart import apart
from bench.ways import BATCH, BUFFER, LIBRARIES, SIDE, WAYS, WORKERS, plain, prepare, scaled, shards, stream, whole
from guidebook.config.params import Params
from guidebook.data.decode import quiet
from guidebook.data.images import load

ROWS, FILES, GROUP = 2000, 40, 25  # of the bench's own shards: more files than an LRU of 5 keeps
IMAGES, DECODED, GROWN = 240, 600, 1200  # of a way, in one turn; decoded alone; where the set grows
COMPARED, RESUMES = 40, 20  # images whose pixels are compared; places where reading begins
OURS, WARM, SAME, FULL = (
    "guidebook, first epoch",
    "guidebook, decoded",
    "decoder alone, same scale",
    "full decode and resize",
)
# Far faster ways, and an epoch or two of those that read ahead: their first batch is not timed
BATCHES = {WARM: 1000, "DataLoader, decoded files": 300, OURS: 225, "WebDataset": 112}
BATCHES |= {"datasets, streaming": 112, "datasets, our decoder": 225}
ALONE = {SAME: SIDE, "decoder alone, at 1/8": 1, FULL: None}
PAIRS = [
    ("against decoding whole", OURS, FULL, "reading, shuffling and decoding at a smaller scale"),
    ("against the decoder alone", OURS, SAME, "what reading, shuffling and resizing leave of it"),
    ("against datasets", OURS, "datasets, streaming", "a first epoch"),
    ("against datasets with this decoder", OURS, "datasets, our decoder", "what is left is reading and shuffling"),
    ("against WebDataset", OURS, "WebDataset", "a first epoch"),
    ("later epochs", WARM, OURS, "what was decoded is kept"),
    ("against decoded files", WARM, "DataLoader, decoded files", "both decoded before"),
    ("file after file", "file-sequential", "random access", "the thesis's fastest by its slowest"),
    ("LRU", "LRU of 5 files", "random access", "the thesis's second by its slowest"),
]  # fmt: skip


def loader(params: Params, repeats: int = 3) -> dict:
    """Images per second of all ways with as many workers, in turns, and the laws that this library's own is held to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, params)
        raws, rows = _first_epoch(folder), shards(folder).train_rows
        turns = {name: lambda side=side: {"speed": _alone(raws, side)} for name, side in ALONE.items()}
        turns |= {name: lambda name=name: _apart(folder, name, watched=False) for name in WAYS}
        found = measuring.alternate(turns, repeats)
        held = {name: _apart(folder, name)["memory_mb"] for name in WAYS}
        compared = raws[:: max(1, len(raws) // COMPARED)]
        epochs = [{"epochs": n, "memory_mb": _apart(folder, OURS, n * rows)["memory_mb"]} for n in (1, 4)]
        laws = {
            "psnr_db": measuring.spread(_psnr(compared)), "compared": len(compared), "resumes": RESUMES,
            "resume_s": measuring.spread([_resume(folder) for _ in range(RESUMES)]), "window_mb": _window(folder),
            "epochs": epochs, "growth": list(_growth(folder)), "entropy_random": _entropy_random(folder),
        }  # fmt: skip
    lines = [_row(name, turns) | ({"memory_mb": held[name]} if name in held else {}) for name, turns in found.items()]
    ratios = measuring.ratios({name: [turn["speed"] for turn in turns] for name, turns in found.items()}, PAIRS)
    return measuring.report("loader", params, lines, ratios, batch=BATCH, workers=WORKERS, paintings=ROWS, **laws)


def _row(name: str, turns: list[dict]) -> dict:
    """A way's figures over its turns; what was decoded alone has a speed only."""
    keys = ("batch_s", "first_s", "entropy") if "batch_s" in turns[0] else ()
    medians = {key: statistics.median(turn[key] for turn in turns) for key in keys}
    return {"name": name, "speed": measuring.spread([turn["speed"] for turn in turns])} | medians


def _write(folder: Path, params: Params) -> None:
    """The drawn paintings in more files than they come in."""
    data = load(params.replace(data={"name": "paintings", "limit": None}).data)
    rows = (row for i in range(len(data.shards.groups)) for row in data.shards.read(i))
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "style": pa.int64()})
    for k in range(FILES):
        some = [row for _, row in zip(range(ROWS // FILES), rows, strict=False)]
        part = [{"image": {"bytes": r.raw, "path": ""}, "style": r.label} for r in some]
        file = folder / f"train-{k:05}-of-{FILES:05}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema), file, row_group_size=GROUP)
    prepare(folder)


def _first_epoch(folder: Path) -> list[bytes]:
    """Encoded images in the order of a first epoch, without broken ones."""
    found = shards(folder)
    order = dict.fromkeys(found.order(0, 0, min(DECODED, found.train_rows), BUFFER).tolist())
    rows = (row for i in range(len(found.groups)) for row in found.read(i) if row.number in order)
    raws = order | {row.number: row.raw for row in rows}
    return [raw for raw in raws.values() if scaled(raw) is not None]


def _alone(raws: list[bytes], side: int | None) -> float:
    """Images per second of the decoder in as many threads, from memory: at the scale for a side, or whole with the resizing."""

    def one(raw: bytes) -> None:
        image = Image.open(io.BytesIO(raw))
        if side is None:
            whole(image)
        else:
            image.draft(None, (2 * side, 2 * side))
            image.load()

    quiet()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, raws[:8]))
        return len(raws) / measuring.seconds(lambda: list(pool.map(one, raws)))


def _apart(folder: Path, way: str, images: int | None = None, watched: bool = True) -> dict:
    return apart(_timed, folder, way, images, watched=watched, libraries=LIBRARIES)


def _timed(folder: Path, way: str, images: int | None) -> dict:
    """Speed after the first batch, and the order: the mean entropy of a batch's labels."""
    torch.set_num_threads(1)
    quiet()
    times, entropies, batches = [], [], WAYS[way](folder)
    for _ in range((images // BATCH if images else BATCHES.get(way, IMAGES // BATCH)) + 1):
        started = time.perf_counter()
        _, labels = next(batches)
        times.append(time.perf_counter() - started)
        entropies.append(_entropy(labels.tolist()))
    batches.close()  # with the workers, or they would go on in the next turn
    speed = BATCH * (len(times) - 1) / sum(times[1:])
    return {"speed": speed, "first_s": times[0], "batch_s": BATCH / speed, "entropy": statistics.mean(entropies)}


def _entropy(labels: list[int]) -> float:
    """In bits."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(share * np.log2(share)).sum())


def _entropy_random(folder: Path) -> float:
    """Of batches drawn from the whole set at random."""
    found, draw = shards(folder), random.Random(0)
    labels = [row.label for i in range(len(found.groups)) for row in found.read(i)]
    return statistics.mean(_entropy(draw.sample(labels, BATCH)) for _ in range(2000))


def _psnr(raws: list[bytes]) -> list[float]:
    """Decibels between what is decoded at a smaller scale and the whole image resized."""
    pairs = ((scaled(raw).astype(float), plain(raw)) for raw in raws)
    return [float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9))) for a, b in pairs]


def _resume(folder: Path) -> float:
    """Seconds from nothing to the next batch, at a random place of ten epochs with a random number of threads."""
    started = time.perf_counter()
    with stream(folder, random.randrange(10 * ROWS), random.choice((1, 2, 4))) as found:
        found.next(BATCH)
        return time.perf_counter() - started


def _window(folder: Path) -> float:
    """MB of the encoded images of one window."""
    found = shards(folder)
    (first, *_) = found.epoch(0, 0, BUFFER)
    return sum(len(row.raw or b"") for g in first.groups for row in found.read(g)) / 2**20


def _growth(folder: Path) -> Iterator[dict]:
    """Memory and time an image where there are so many times as many shards."""
    for times in (1, 2, 4, 8, 16):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            for k in range(times):
                for file in folder.glob("*.parquet"):
                    os.link(file, Path(name) / f"train-{k:02}-{file.stem}.parquet")
            speed = statistics.median(_apart(Path(name), OURS, GROWN, watched=False)["speed"] for _ in range(3))
            memory = _apart(Path(name), OURS, GROWN)["memory_mb"]
        yield {"times": times, "rows": times * ROWS, "ms_per_image": 1000 / speed, "memory_mb": memory}

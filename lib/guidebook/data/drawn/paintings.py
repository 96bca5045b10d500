"""Drawn paintings in the 27 styles of WikiArt: a small stand-in for the hub's `huggan/wikiart`, in the form of its files.

A painting is a function of its style, a seed and its number. A style is a palette and a few motifs; places, sizes and
shades are drawn at random. It is painted at a quarter of its size and enlarged, and the grain of a canvas comes on top, so
that a file is as large and as slow to decode as a photograph of a painting.
"""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageFilter

from guidebook.data.drawn.canvas import Canvas
from guidebook.data.drawn.motifs import GENRE, LOOKS
from guidebook.runs.artifact import artifact
from guidebook.runs.progress import Bar
from guidebook.runtime.seeds import seed_of

VERSION = 1  # another number for other pixels
LONG, SHORT = (1645, 2085), (1204, 1600)  # pixels of a painting's longer and shorter side
WIDE = 0.514  # share of paintings that are wider than high: the mean is 1640 × 1627, as on the hub
QUALITY, GRAIN = 80, 34  # of the JPEG files; of 255 values, those that the canvas's grain takes: files of about 400 kB
PROGRESSIVE, BROKEN = (50, 25), (400, 200)  # one row in so many, beginning with row …
ARTISTS = ("Unknown Artist",)
GENRES = (
    "abstract_painting", "cityscape", "genre_painting", "illustration", "landscape", "nude_painting", "portrait",
    "religious_painting", "sketch_and_study", "still_life", "Unknown Genre",
)  # fmt: skip
STYLES = tuple(LOOKS)


def paint(style: int, seed: int, number: int) -> np.ndarray:
    """Painting `number` of a style, (H, W, 3) uint8, each side between 1,200 and 2,100 pixels. IndexError: no such style."""
    small, grain = _sketch(style, seed, number), _grain()
    # PyTorch's kernel gives Pillow's pixels in a fifth of the time
    pixels = torch.from_numpy(np.array(small))[None].permute(0, 3, 1, 2)  # in this order it stays channels-last
    pixels = torch.nn.functional.interpolate(pixels, scale_factor=4, mode="bilinear", antialias=True)
    pixels = pixels[0].permute(1, 2, 0).numpy()
    y, x = seed_of("grain", style, seed, number) % 90, number % 90
    return np.add(pixels, grain[y : y + pixels.shape[0], x : x + pixels.shape[1]], out=pixels)


def _sketch(style: int, seed: int, number: int) -> Image.Image:
    """The painting at a quarter of its size, in values that leave room for the grain."""
    palette, *motifs = LOOKS[STYLES[style]]
    rng = np.random.default_rng(seed_of("painting", style, seed, number))
    sides = round(rng.uniform(*LONG) / 4), round(rng.uniform(*SHORT) / 4)
    c = Canvas(palette, *(sides if rng.random() < WIDE else sides[::-1]), rng)
    for motif, *numbers in motifs:
        motif(c, *numbers)
    shade = (255 - GRAIN) / 255 * (0.97 + 0.03 * np.clip(c.clouds(), -1, 1))  # at most what leaves room for the grain
    c.warp(0.006 * c.clouds(), 0.006 * c.clouds(), shade)  # of a hand that is not quite steady
    return c.image


@functools.cache
def _grain() -> np.ndarray:
    """The grain of a canvas and the brush's hairs, (H, W, 3) uint8 up to `GRAIN`, from which each painting takes a part."""
    side = LONG[1] + 100
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8))
    fine, hairs = (np.asarray(noise.filter(ImageFilter.GaussianBlur(r)), np.float32) for r in ((0.8, 0.8), (6, 0.6)))
    weave = np.sin(1.3 * np.arange(side, dtype=np.float32))
    field = fine / fine.std() + hairs / hairs.std() + weave[None] * weave[:, None]
    field = (field - field.mean()) / field.std()
    return np.repeat(np.clip((0.5 + field / 6) * GRAIN, 0, GRAIN).astype(np.uint8)[..., None], 3, 2)


def encode(pixels: np.ndarray, progressive: bool = False) -> bytes:
    """A JPEG file of pixels (H, W, 3) uint8, of quality 80 with 4:2:0 subsampling."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0", progressive=progressive)
    return file.getvalue()


def drawn(root: Path, n: int, seed: int = 0, files: int = 6, group: int = 40) -> Path:
    """The folder of `n` paintings in the hub's form: `files` parquet files with row groups of `group` rows. Raises OSError.

    Each style has as many as the next, give or take one. Rows lie as in a collection: by style within each third of them.
    One file in 50 is progressive, and one in 400 broken: by turns cut in half, a web page, and cut in its header.
    """
    styles = np.random.default_rng(seed_of("painted styles", seed)).permutation(np.arange(n) % len(STYLES))
    thirds = np.array_split(np.arange(n), 3)
    order = np.concatenate([third[np.argsort(styles[third], kind="stable")] for third in thirds]).tolist()
    schema = _schema()

    def write(aside: Path) -> None:
        bar = Bar(None, "drawing paintings", n, unit="image")
        for k, rows in enumerate(np.array_split(np.arange(n), files)):
            with pq.ParquetWriter(aside / f"train-{k:05}-of-{files:05}.parquet", schema) as file:
                for at in range(0, len(rows), group):  # no more in memory than one row group
                    numbers = rows[at : at + group].tolist()
                    part = [_row(row, int(styles[order[row]]), seed, order[row]) for row in numbers]
                    file.write_table(pa.Table.from_pylist(part, schema))
                    bar.update(len(part))

    return artifact(root, "paintings", [VERSION, n, seed, files, group], write, what="the set of drawn paintings")


def _row(row: int, style: int, seed: int, number: int) -> dict:
    raw = encode(paint(style, seed, number), progressive=row % PROGRESSIVE[0] == PROGRESSIVE[1])
    if row % BROKEN[0] == BROKEN[1]:
        raw = (raw[: len(raw) // 2], b"<html>not found</html>", raw[:100])[row // BROKEN[0] % 3]
    motifs = (motif for motif, *_ in LOOKS[STYLES[style]][1:])
    genre = next((GENRE[m] for m in motifs if m in GENRE), "abstract_painting")
    image = {"bytes": raw, "path": f"{STYLES[style].lower()}-{number:06}.jpg"}
    return {"image": image, "artist": 0, "genre": GENRES.index(genre), "style": style}


def _schema() -> pa.Schema:
    """Parquet in the layout of `datasets`: the classes' names lie in the metadata."""
    names = {"artist": ARTISTS, "genre": GENRES, "style": STYLES}
    features = {k: {"names": v, "_type": "ClassLabel"} for k, v in names.items()}
    info = {"info": {"features": {"image": {"_type": "Image"}} | features}}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.schema({"image": image} | dict.fromkeys(names, pa.int64()), {"huggingface": json.dumps(info)})

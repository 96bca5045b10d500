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
from tqdm import tqdm

from guidebook.data.drawn.motifs import (
    ALL,
    Canvas,
    dots,
    facets,
    fields,
    glow,
    hills,
    houses,
    panels,
    portrait,
    sheets,
    still_life,
    strokes,
    threads,
    wash,
    waves,
)  # fmt: skip
from guidebook.runs.artifact import artifact
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

LOOKS = {  # the styles in the order of their labels: a palette, then the motifs with their numbers
    "Abstract_Expressionism": ("e9dcc3 1c1a1d a83a26 d79a2b 52708c",
        (sheets, 3, 1, 1, .5, 3), (strokes, 26, .3, .06, .6, 1.2, 0, 0, 2, 4), (strokes, 8, .6, .08, .8, .5, 0, 1)),
    "Action_painting": ("a9a296 17171a efe9dc 7c8a96 c8a038", (threads, 90, .03, 0, 1, 1, 2, 3, 4), (dots, 900, .006, ALL, 1, 2)),
    "Analytical_Cubism": ("7d6a4c 3b3225 a8977a c9bd9d 5a5647",
        (glow, 3, .5, .45, .35), (sheets, 26, .3, 1.6, .8, 1, 2, 3, 4), (facets, 8, .03, .3)),
    "Art_Nouveau_Modern": ("e3cf9a 2f6b62 b9822e 7c2f2a f1e6c8",
        (threads, 30, .04, .2, 1, 2), (portrait, 1, 4, 2, .15, 1.1, 2), (dots, 60, .03, (0, .85, 1, 1), 2, 3)),
    "Baroque": ("17100c 5a3c22 8c1f1a e0b183 3a2416", (glow, 1, .25, .25, .3), (portrait, 2, 3, 4, .17, 1.15)),
    "Color_Field_Painting": ("7a1f1c c8401f 3b1020 e27a26", (fields, 3, 1, 2)),
    "Contemporary_Realism": ("c9d2d8 eef0ee 7f93a3 d0473a e8b04a 49708f", (wash, 0, 1), (still_life, 2, 5),
        (dots, 16, .07, (.33, .16, .67, .42), 3, 4, 1), (dots, 7, .06, (.1, .72, .9, .86), 3, 4)),
    "Cubism": ("6f8a6c c98a4b 2f4a5e d9cfb0 8a3f2c 1f2420",
        (portrait, 2, 1, 5, .2, 1.2), (sheets, 10, .24, 1.5, .7, 0, 1, 3, 4), (facets, 7, .04, .28)),
    "Early_Renaissance": ("c9962f 24408f e6bd93 6b3b1e f0cf6a", (wash, 4, 0, 0), (portrait, 1, 2, 3, .15, 1.15, 4)),
    "Expressionism": ("e2641f f2b23a 1d3350 0f1a2b 6b2a3a",
        (wash, 0, 1, 0), (hills, .55, .05, 4, 2, 3), (strokes, 1100, .16, .02, 0, .1, .8)),
    "Fauvism": ("3fa37c f2c22e e0345c 2a5fc4 f0832c 7a2f92", (wash, 0, 1), (hills, .4, .04, 3, 2, 4),
        (dots, 7, .1, (0, .4, 1, .65), 5, 2, 0), (strokes, 700, .07, .03, .3, .8, 0)),
    "High_Renaissance": ("b5b487 6f7f6a 4d4a2c d8b07e 2c2416 5c4425",
        (wash, 0, 0, 1), (hills, .45, .04, 1, 2, 5), (portrait, 4, 3, 4, .165, 1.15)),
    "Impressionism": ("bcd3e6 e9d6dc 8fae9c 6f93b8 f4efe2 d69fb0", (wash, 0, 1, 3), (hills, .42, .03, 2, 3),
        (dots, 60, .03, (0, .6, 1, 1), 4, 5, 2), (strokes, 1500, .05, .016, 0, .35, 0)),
    "Mannerism_Late_Renaissance": ("3d5a62 24383e d98aa0 e8d3b8 7d8f4e 5a3c48",
        (sheets, 4, .7, .5, .3, 1, 4), (portrait, 2, 3, 5, .12, 1.6)),
    "Minimalism": ("f1efe8 1a1a1a d8d4c8", (sheets, 1, .6, 1, 0, 2), (sheets, 2, .4, 6, 0, 1)),
    "Naive_Art_Primitivism": ("5fb4e8 3f9b3a 7cc44a f7d93d d9382e 2b6a2c", (dots, 1, .1, (.2, .1, .8, .2), 3),
        (hills, .45, .05, 1, 2), (dots, 8, .09, (0, .45, 1, .7), 5, 4), (dots, 90, .014, (0, .75, 1, 1), 4, 3)),
    "New_Realism": ("8f969a 5a5450 7a4a3c e8cf7a 3f4448 a89a8a",
        (wash, 0, 0, 4, 4), (houses, 1, 2, 5), (dots, 130, .012, (0, .42, 1, .72), 3, 4)),
    "Northern_Renaissance": ("2f5238 1a1512 e9c6a4 f2ede2", (portrait, 1, 2, 3, .19, 1.05)),
    "Pointillism": ("a9cfe4 f4e7a8 8cb84e e89a5c 4f6fae 4f7d3c", (wash, 0, 1), (hills, .5, .03, 4, 2, 1),
        (dots, 6, .11, (0, .4, 1, .6), 5, 3), (dots, 3500, .01, ALL)),
    "Pop_Art": ("f5e02a e8208a 20b8e0 f7f3ea 151515", (dots, 60, .04, ALL, 2), (portrait, 1, 3, 4, .19, 1.1), (panels,)),
    "Post_Impressionism": ("1d3c8a 4b86c8 e6b422 c98a1c 2d4a2a f6e58a", (wash, 0, 1), (dots, 9, .05, (0, 0, 1, .4), 5),
        (hills, .58, .03, 4, 2, 3), (strokes, 1300, .08, .014, .1, .15, .7)),
    "Realism": ("b4b3a6 9a9580 6b6238 4e4527 857a4a 332c1a",
        (wash, 0, 0, 1), (hills, .6, .015, 4, 2, 3), (dots, 9, .05, (0, .56, 1, .66), 5, 3)),
    "Rococo": ("b7d0dc f3d9d3 e7a9b0 f7efe0 9db58a", (wash, 0, 1, 4), (glow, 3, .5, .4, .35),
        (portrait, 2, 1, 3, .12, 1.1), (dots, 140, .035, (0, .8, 1, 1), 2, 3, 4)),
    "Romanticism": ("4a2f22 e8a24a 2a2a34 7d4a2a f6dca0 15161d",
        (wash, 2, 3, 2), (glow, 1, .5, .45, .4), (glow, 4, .5, .45, .15), (hills, .68, .04, 0, 5)),
    "Symbolism": ("3a2a5c 6c4f8c 1c1836 d9c7e0 8a5f7a 0f0e20", (wash, 2, 0, 1, 4), (dots, 1, .14, (.25, .2, .75, .3), 3),
        (hills, .68, .03, 0, 5), (strokes, 60, .2, .006, 0, .02, 0, 3, 1)),
    "Synthetic_Cubism": ("c9b38a efe6d0 1d1d1f 3f6fa0 8a4a2a a8b8b0",
        (sheets, 9, .5, 1.4, .35, 1, 2, 3, 4, 5), (threads, 4, .04, .2, 2, 1), (dots, 50, .012, (.2, .2, .8, .8), 2, 4)),
    "Ukiyo_e": ("ecdfc0 1f3f6f 4f7fa8 f6f1e2 cf4a35 c9c7b0", (wash, 5, 0, 0), (dots, 1, .1, (.4, .15, .85, .25), 4),
        (waves, .55, .015, 2, 1, 2, 1, 2, 1)),
}  # fmt: skip
STYLES = tuple(LOOKS)
GENRE = {portrait: "portrait", hills: "landscape", waves: "landscape", houses: "cityscape", still_life: "still_life"}


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


def drawn(root: Path, n: int, seed: int, files: int, group: int = 40) -> Path:
    """The folder of `n` paintings in the hub's form: `files` parquet files with row groups of `group` rows. Raises OSError.

    Each style has as many as the next, give or take one. Rows lie as in a collection: by style within each third of them.
    One file in 50 is progressive, and one in 400 broken: by turns cut in half, a web page, and cut in its header.
    """
    styles = np.random.default_rng(seed_of("painted styles", seed)).permutation(np.arange(n) % len(STYLES))
    thirds = np.array_split(np.arange(n), 3)
    order = np.concatenate([third[np.argsort(styles[third], kind="stable")] for third in thirds]).tolist()
    schema = _schema()

    def write(aside: Path) -> None:
        bar = tqdm(total=n, desc="paintings", unit="img", mininterval=1)
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
    """As `datasets` writes it: the classes' names lie in the metadata."""
    names = {"artist": ARTISTS, "genre": GENRES, "style": STYLES}
    features = {k: {"names": v, "_type": "ClassLabel"} for k, v in names.items()}
    info = {"info": {"features": {"image": {"_type": "Image"}} | features}}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.schema({"image": image} | dict.fromkeys(names, pa.int64()), {"huggingface": json.dumps(info)})

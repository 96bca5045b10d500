"""Sets of images in a run folder: `samples/<name>-<key>/`, made once and found afterwards.

`set.json` describes how the images were made, `images.safetensors` holds them, `sheet.png` the first of them, a manifest their
hashes. A recorded run keeps the sheet alone, so its sets are the first images, pixel for pixel; it is read without torch. While
samples are drawn, their parts wait in `samples/.parts-…`: none is drawn again after an interruption.
"""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from guidebook.config.errors import plain
from guidebook.runs.artifact import artifact, place
from guidebook.runs.lock import owned
from guidebook.runs.manifest import MANIFEST, Corrupt, verify
from guidebook.runs.preemption import stopping
from guidebook.runs.run import SHEET, Run
from guidebook.sampling.spec import Draw

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 10
PIXELS, MANY = 2**23, 300  # of a sheet, at most, and images of many classes: it is kept in the repository


@dataclass(frozen=True)
class ImageSet:
    name: str
    folder: Path
    pixels: np.ndarray  # (N, C, H, W) uint8; of a recorded run, the first ones
    facts: dict  # of set.json: `draw` (of samples), `labels`, `clipped`, `evaluations`, `seconds_per_image`, `n`

    @functools.cached_property
    def images(self) -> "Tensor":
        """The pixels as a tensor."""
        import torch

        return torch.as_tensor(self.pixels)

    @property
    def labels(self) -> "Tensor":
        """The class or the attributes that each image should show, (N,) int64."""
        import torch

        return torch.tensor(self.facts["labels"][: len(self.pixels)])

    @functools.cached_property
    def draw(self) -> Draw:
        """The draw of these samples."""
        return Draw.model_validate(self.facts["draw"])


def image_set(run: Run, name: str, spec: dict, make: Callable[[], tuple["Tensor", dict]]) -> ImageSet:
    """The set that `spec` describes: found in the run folder, else made.

    `make` returns images (N, C, H, W) uint8 and facts, among them `labels`; of several processes the main one keeps them. Raises
    Corrupt where a file is not what was written, NotRecorded, OSError where the disk is full, and what `make` raises.
    """
    folder = path_of(run, name, spec)
    if not folder.is_dir():  # a complete set alone has that name
        run.needs(f"the image set {name} ({', '.join(f'{k} {v}' for k, v in spec.items())})")
        with owned(run.path), stopping(run):
            images, facts = make()
            classes = 0 if run.params.data.entry.attributes else len(set(facts["labels"]))
            facts = spec | facts | {"n": len(images), "shape": list(images.shape[1:])}
            wanted = max(SHEET, min(COLUMNS, MANY // max(classes, 1)) * classes)
            kept = min(wanted, max(COLUMNS, PIXELS // images.shape[-2] // images.shape[-1]))
            facts |= {"kept": kept} if kept > SHEET else {}

            def save(aside: Path) -> None:
                save_file({"images": np.ascontiguousarray(images)}, aside / "images.safetensors")
                Image.fromarray(sheet(images[:kept])).save(aside / "sheet.png", optimize=True)
                (aside / "set.json").write_text(json.dumps(facts))

            artifact(folder.parent, name, spec, save, what=folder.name)
            shutil.rmtree(folder.with_name(f".parts-{folder.name}"), ignore_errors=True)
    return stored(folder)


def examples(run: Run, per_class: int = 3) -> ImageSet:
    """The first training images of each class, class by class in turn; fewer where a class has no more.

    Of a set without classes, ten times as many of the first."""

    def make():
        from guidebook.data.images import load

        split = load(run.params.data).train
        if run.params.data.entry.attributes or run.params.data.entry.captioned:
            return split.images[: COLUMNS * per_class], {"labels": split.labels[: COLUMNS * per_class].tolist()}
        labels = split.labels.numpy()
        classes, counts = np.unique(labels, return_counts=True)
        most = min(per_class, *counts.tolist())
        index = np.stack([np.flatnonzero(labels == c)[:most] for c in classes], 1).flatten()
        return split.images[index], {"labels": labels[index].tolist()}

    words = {3: "three"}.get(per_class, str(per_class))
    return image_set(run, "train-split", {"images": f"{words} of each class"}, make)


def path_of(run: Run, name: str, spec: dict) -> Path:
    """Where the set that `spec` describes lies, or would."""
    return place(run.path / "samples", name, spec)


def stored(folder: Path) -> ImageSet:
    """The set in a folder. Raises Corrupt where a file is not what was written."""
    if any((folder / name).exists() for name in (MANIFEST, "images.safetensors")):  # a record has neither
        verify(folder, f"delete {folder} and run again: it is drawn anew")
    try:
        facts = json.loads((folder / "set.json").read_text())
        pixels = (
            load_file(file)["images"] if (file := folder / "images.safetensors").exists() else _first(folder, **facts)
        )
    except Exception as error:  # of an older record, or a stranger's: a broken image raises nearly anything
        why = f"{type(error).__name__}: {plain(error)[:200]}"
        raise Corrupt(
            f"{folder}: set.json and its images cannot be read ({why}); `guidebook record` its run again"
        ) from None
    return ImageSet(folder.name[:-9], folder, pixels, facts)


def _first(folder: Path, shape: list[int], n: int, kept: int = SHEET, **facts) -> np.ndarray:
    """The first images of a set (N, C, H, W) from its sheet."""
    c, h, w = shape
    with Image.open(folder / "sheet.png", formats=["PNG"]) as image:
        grid = np.array(image).reshape(-1, h, COLUMNS, w, c)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, c, h, w)[: min(n, kept)]


def sheet(images: "np.ndarray | Tensor", columns: int = COLUMNS) -> np.ndarray:
    """Images (N, C, H, W) uint8 side by side, row by row: (rows·H, columns·W) or, in colour, (rows·H, columns·W, 3)."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, c, h, w), np.uint8)
    tiles[:n] = images
    grid = tiles.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return grid[..., 0] if c == 1 else grid


def strip(images: "np.ndarray | Tensor") -> Image.Image:
    """Images (N, C, H, W) uint8 side by side, pixel by pixel: a browser enlarges them as its reader likes."""
    return Image.fromarray(np.concatenate([*images], axis=-1).transpose(1, 2, 0).squeeze())


def mosaic(images: "np.ndarray | Tensor", columns: int = COLUMNS, tile: int = 56, gap: int = 4) -> np.ndarray:
    """Images (N, C, H, W) uint8 for the eye: small ones enlarged smoothly to about `tile` pixels, white between them."""
    pixels, (height, width) = np.asarray(images), images.shape[2:]
    if (scale := round(tile / width)) > 1:
        large = _cubic(height, scale) @ pixels @ _cubic(width, scale).T
        pixels = large.round().clip(0, 255).astype(np.uint8)
    pixels = np.pad(pixels, ((0, -len(pixels) % columns), (0, 0), (0, gap), (0, gap)), constant_values=255)
    return sheet(pixels, columns)[:-gap, :-gap]


# k(d) = 5/4 |d|³ − 9/4 |d|² + 1 for |d| ≤ 1,  −3/4 (|d|³ − 5 |d|² + 8 |d| − 4) for |d| ≤ 2   (Keys 1981, eq. 8, a = −3/4)
def _cubic(n: int, scale: int) -> np.ndarray:
    """Weights (n · scale, n) that enlarge n pixels by cubic convolution; beyond an edge its pixel goes on."""
    places = (np.arange(n * scale) + 0.5) / scale - 0.5
    weights = np.zeros((n * scale, n))
    for shift in (-1, 0, 1, 2):
        pixel = np.floor(places).astype(int) + shift
        d = np.abs(places - pixel)
        k = np.where(d <= 1, ((5 * d - 9) * d * d + 4) / 4, -3 / 4 * (((d - 5) * d + 8) * d - 4))
        weights[np.arange(n * scale), pixel.clip(0, n - 1)] += k
    return weights

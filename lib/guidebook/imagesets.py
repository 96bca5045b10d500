"""Sets of images in a run folder: `samples/<name>-<key>/`, made once and found afterwards.

`set.json` says how the images were made, `images.safetensors` holds them, `sheet.png` shows the first of them. A recorded
run keeps the sheet alone, so what it gives back is the first images of the set, pixel for pixel.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from guidebook.params import digest
from guidebook.run import SHEET, Run

COLUMNS = 10


@dataclass(frozen=True)
class ImageSet:
    name: str
    images: torch.Tensor  # (N, C, H, W) uint8; of a recorded run, the first ones
    facts: dict  # what set.json holds: how the images were made, `labels`, `seconds_per_image`, `n`

    @property
    def labels(self) -> torch.Tensor:
        """The class each image was asked to show, (N,) int64."""
        return torch.tensor(self.facts["labels"][: len(self.images)])


def image_set(run: Run, name: str, spec: dict, make: Callable[[], tuple[torch.Tensor, dict]]) -> ImageSet:
    """The set that `spec` describes: found in the run folder, else made.

    `make` returns images (N, C, H, W) uint8 and facts, among them `labels`.
    """
    folder = run.path / "samples" / f"{name}-{digest(spec)}"
    if not (folder / "set.json").exists():
        run.needs(f"the image set {name} ({', '.join(f'{k} {v}' for k, v in spec.items())})")
        images, facts = make()
        _save(folder, images, spec | facts | {"n": len(images), "shape": list(images.shape[1:])})
    facts = json.loads((folder / "set.json").read_text())
    return ImageSet(name, _load(folder, facts), facts)


def _save(folder: Path, images: torch.Tensor, facts: dict) -> None:
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        save_file({"images": images.contiguous()}, aside / "images.safetensors")
        Image.fromarray(sheet(images[:SHEET])).save(aside / "sheet.png", optimize=True)
        (aside / "set.json").write_text(json.dumps(facts))
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sheet(images: torch.Tensor, columns: int = COLUMNS) -> np.ndarray:
    """Images (N, C, H, W) uint8 side by side, row by row: (rows·H, columns·W) or, in colour, (rows·H, columns·W, 3)."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    tiles = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    tiles[:n] = images
    grid = tiles.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c).numpy()
    return grid[..., 0] if c == 1 else grid


def mosaic(images: torch.Tensor, columns: int = COLUMNS, tile: int = 56, gap: int = 4) -> np.ndarray:
    """Images (N, C, H, W) uint8 for the eye: small ones enlarged smoothly to about `tile` pixels, white between them."""
    scale = max(1, round(tile / images.shape[-1]))
    if scale > 1:
        large = F.interpolate(images.float(), scale_factor=scale, mode="bicubic")
        images = large.round().clamp(0, 255).to(torch.uint8)
    images = torch.cat([images, images.new_full((-len(images) % columns, *images.shape[1:]), 255)])
    grid = sheet(F.pad(images, (0, gap, 0, gap), value=255), columns)
    return grid[:-gap, :-gap] if gap else grid


def _load(folder: Path, facts: dict) -> torch.Tensor:
    file = folder / "images.safetensors"
    if file.exists():
        return load_file(file)["images"]
    c, h, w = facts["shape"]
    with Image.open(folder / "sheet.png", formats=["PNG"]) as image:
        grid = torch.from_numpy(np.array(image)).reshape(-1, h, COLUMNS, w, c)
    return grid.permute(0, 2, 4, 1, 3).reshape(-1, c, h, w)[: min(facts["n"], SHEET)]

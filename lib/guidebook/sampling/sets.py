"""Sets of images in a run folder: `samples/<name>-<key>/`, made once and found afterwards.

`set.json` describes how the images were made, `images.safetensors` holds them, `sheet.png` the first of them, a manifest their
hashes. A recorded run keeps the sheet alone, so its sets are the first images, pixel for pixel. While a set is made, its parts
wait in `samples/.parts-…`: none is drawn again after an interruption.
"""

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from guidebook.config.datasets import CATALOG
from guidebook.config.params import digest
from guidebook.data.images import load
from guidebook.runs.lock import owned
from guidebook.runs.manifest import MANIFEST, Corrupt, fsync, verify, whole, writing
from guidebook.runs.preemption import stopping
from guidebook.runs.run import SHEET, Run
from guidebook.runtime.distributed import barrier, world
from guidebook.sampling.spec import Draw

COLUMNS = 10
PIXELS = 2**23  # of a sheet, at most: it is kept in the repository


@dataclass(frozen=True)
class ImageSet:
    name: str
    folder: Path
    images: torch.Tensor  # (N, C, H, W) uint8; of a recorded run, the first ones
    facts: dict  # of set.json: `draw` (of samples), `labels`, `clipped`, `evaluations`, `seconds_per_image`, `n`

    @property
    def labels(self) -> torch.Tensor:
        """The class or the attributes that each image should show, (N,) int64."""
        return torch.tensor(self.facts["labels"][: len(self.images)])

    @functools.cached_property
    def draw(self) -> Draw:
        """What samples were drawn by."""
        return Draw.model_validate(self.facts["draw"])


def image_set(run: Run, name: str, spec: dict, make: Callable[[], tuple[torch.Tensor, dict]]) -> ImageSet:
    """The set that `spec` describes: found in the run folder, else made.

    `make` returns images (N, C, H, W) uint8 and facts, among them `labels`; of several processes the main one keeps them.
    """
    folder = path_of(run, name, spec)
    if not folder.is_dir():  # a complete set alone has that name
        run.needs(f"the image set {name} ({', '.join(f'{k} {v}' for k, v in spec.items())})")
        with owned(run.path):
            images, facts = make()
            if world().is_main_process:
                classes = 0 if CATALOG[run.params.data.name].attributes else len(set(facts["labels"]))
                facts = spec | facts | {"n": len(images), "shape": list(images.shape[1:])}
                most = max(COLUMNS, PIXELS // images[0, 0].numel())
                _save(folder, images, facts, min(max(SHEET, COLUMNS * classes), most))
        barrier()
    return stored(folder)


def examples(run: Run, per_class: int = 3) -> ImageSet:
    """The first training images of each class, class by class in turn; fewer where a class has no more.

    Of a set with attributes, ten times as many of the first."""

    def make():
        split = load(run.params.data).train
        if CATALOG[run.params.data.name].attributes:
            return split.images[: COLUMNS * per_class], {"labels": split.labels[: COLUMNS * per_class].tolist()}
        classes, counts = split.labels.unique(return_counts=True)
        most = min(per_class, *counts.tolist())
        index = torch.stack([(split.labels == c).nonzero()[:most, 0] for c in classes], 1).flatten()
        return split.images[index], {"labels": split.labels[index].tolist()}

    words = {3: "three"}.get(per_class, str(per_class))
    return image_set(run, "train-split", {"images": f"{words} of each class"}, make)


def path_of(run: Run, name: str, spec: dict) -> Path:
    """Where the set that `spec` describes lies, or would."""
    return run.path / "samples" / f"{name}-{digest(spec)}"


def stored(folder: Path) -> ImageSet:
    """The set in a folder. Raises Corrupt where a file is not what was written."""
    if any((folder / name).exists() for name in (MANIFEST, "images.safetensors")):  # a record has neither
        verify(folder, f"delete {folder} and run again: it is drawn anew")
    facts = json.loads((folder / "set.json").read_text())
    return ImageSet(folder.name[:-9], folder, _load(folder, facts), facts)


def in_parts(
    run: Run,
    folder: Path,  # of the set that is made
    n: int,
    size: int,  # images of a part
    make: Callable[[torch.Tensor], torch.Tensor],  # numbers (B,) of images → images (B, C, H, W) uint8
) -> tuple[torch.Tensor, float]:
    """Images (n, C, H, W) uint8 and the seconds one took, made part by part; the processes take turns.

    A part of the same images that was made before is found. Raises Preempted between two parts.
    """
    aside = folder.with_name(f".parts-{folder.name}")
    aside.mkdir(parents=True, exist_ok=True)
    files = [(aside / f"{int(p[0]):09d}-{len(p)}.safetensors", p) for p in torch.arange(n).split(size)]
    with stopping(run) as stop:
        me, step, what = world().process_index, world().num_processes, f"drawing {folder.name}"
        for turn in tqdm(range(0, len(files), step), what, unit="part", mininterval=1, disable=me > 0):
            for file, part in files[turn + me :][:1]:
                if not file.exists():
                    started = time.perf_counter()
                    images, temporary = make(part), file.with_suffix(f".{os.getpid()}")
                    facts = {"seconds": str(time.perf_counter() - started), "sha256": _digest(images)}
                    with writing(temporary, f"a part of {folder.name}"):
                        save_file({"images": images.contiguous()}, temporary, facts)
                        fsync(temporary)
                        os.replace(temporary, file)
            if turn + step < len(files) and stop.asked():
                stop.obey(f"drawing after {(turn + step) * size:,} of {n:,} images")
    barrier()
    images, seconds = [], 0.0
    for file, _ in files:
        try:
            with safe_open(file, "pt") as part:
                images.append(part.get_tensor("images"))
                facts = part.metadata()
            if facts["sha256"] != _digest(images[-1]):
                raise ValueError
        except (SafetensorError, ValueError, KeyError, TypeError):
            remedy = f"delete {aside} and run again: it is drawn anew"
            raise Corrupt(f"{aside.name}: {file.name} is not what was written; {remedy}") from None
        seconds += float(facts["seconds"])
    return torch.cat(images), seconds / n


def _digest(images: torch.Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy()).hexdigest()


def _save(folder: Path, images: torch.Tensor, facts: dict, kept: int) -> None:
    facts = facts | ({"kept": kept} if kept > SHEET else {})
    with whole(folder, folder.name) as aside:
        save_file({"images": images.contiguous()}, aside / "images.safetensors")
        Image.fromarray(sheet(images[:kept])).save(aside / "sheet.png", optimize=True)
        (aside / "set.json").write_text(json.dumps(facts))
    shutil.rmtree(folder.with_name(f".parts-{folder.name}"), ignore_errors=True)


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
    return sheet(F.pad(images, (0, gap, 0, gap), value=255), columns)[:-gap, :-gap]


def _load(folder: Path, facts: dict) -> torch.Tensor:
    file = folder / "images.safetensors"
    if file.exists():
        return load_file(file)["images"]
    c, h, w = facts["shape"]
    with Image.open(folder / "sheet.png", formats=["PNG"]) as image:
        grid = torch.from_numpy(np.array(image)).reshape(-1, h, COLUMNS, w, c)
    return grid.permute(0, 2, 4, 1, 3).reshape(-1, c, h, w)[: min(facts["n"], facts.get("kept", SHEET))]

"""The study's figures. Every one has labels, units and intervals; a caption stands in the notebook beside it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from guidebook.config.schema import VP
from guidebook.diffusion.objective import objective
from guidebook.sampling.sets import ImageSet, mosaic

COLOURS = ("#1b6ca8", "#c8553d", "#4a7c59", "#8a6fb0")
plt.rcParams.update({
    "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
})  # fmt: skip


def grid(
    images: torch.Tensor,  # (N, C, H, W) uint8
    columns: int = 10,
    rows: Sequence[str] = (),  # a name per row
    heads: Sequence[str] = (),  # a name per column
    tile: float = 0.62,  # inches
) -> Figure:
    """Images row by row; small ones are enlarged smoothly."""
    picture = mosaic(images, columns)
    lines = -(-len(images) // columns)
    left = 0.09 * max((len(r) for r in rows), default=0)
    figure = plt.figure(figsize=(columns * tile + left, lines * tile + (0.25 if heads else 0)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.grid(False)
    height, width = picture.shape[0] / lines, picture.shape[1] / columns
    axes.set_xticks([(i + 0.5) * width for i in range(len(heads))], heads)
    axes.set_yticks([(i + 0.5) * height for i in range(len(rows))], rows)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def pairs(images: torch.Tensor) -> Figure:
    """Images (2·N, C, H, W) uint8 in pairs: the first of a pair above the second, ten pairs to a line."""
    lines = images.unflatten(0, (-1, 2)).split(10)
    rows = [x for line in lines for x in (line[:, 0], line[:, 1])]
    return grid(torch.cat(rows), 10, rows=["sample", "nearest"] * len(lines), tile=0.75)


def by_class(images: ImageSet, classes: Sequence[str], columns: int = 10, rows: int = 30) -> Figure:
    """One row per class, as many seeds as columns; of more than `rows` classes the first ones."""
    k = len(classes)
    shown = images.images[: len(images.images) // k * k][: k * columns].unflatten(0, (-1, k))[:, :rows]
    return grid(shown.transpose(0, 1).flatten(0, 1), len(shown), rows=classes[:rows])


def grid_of_sets(sets: dict[str, ImageSet], classes: Sequence[str]) -> Figure:
    """One row per set, one column per class, the same seed along a column."""
    k = len(classes)
    rows = [f"{name}, w = {s.draw.guidance.w:g}" for name, s in sets.items()]
    return grid(torch.cat([s.images[:k] for s in sets.values()]), k, rows=rows, heads=classes)


def guidance_grid(sets: Sequence[ImageSet], classes: Sequence[str], rows: int = 30) -> Figure:
    """One row per class, one column per guidance scale, the same seed along a row; of more than `rows` classes the first ones."""
    columns = [s.images[: len(classes)][:rows] for s in sets]
    images = torch.stack(columns, 1).flatten(0, 1)
    return grid(images, len(sets), rows=classes[:rows], heads=[f"w = {s.draw.guidance.w:g}" for s in sets], tile=0.75)


def before_and_after(images: ImageSet) -> Figure:
    """The first half of a set above its second half, a column each."""
    n = len(images.images) // 2
    return grid(images.images, n, rows=["before", "after"], tile=0.75)


def prompt_grid(sets: Sequence[ImageSet], rows: int = 8) -> Figure:
    """One numbered row per caption, one column per guidance scale, the same seed along a row."""
    images = torch.stack([s.images[:rows] for s in sets], 1).flatten(0, 1)
    heads = [f"{s.draw.guidance.w:g}" for s in sets]
    return grid(images, len(sets), rows=[str(i + 1) for i in range(rows)], heads=heads, tile=0.75)


def edited(images: ImageSet, rows: int = 6) -> Figure:
    """A face per row: as it was asked for, then with one attribute switched, the same noise along a row."""
    heads = ["as asked", *(name.replace("Wearing_", "").replace("_", " ") for name in images.draw.edits)]
    rows = min(rows, len(images.images) // len(heads))
    return grid(images.images[: rows * len(heads)], len(heads), heads=heads, tile=0.85)


def trajectory(images: ImageSet) -> Figure:
    """From noise to image: a column per timestep, a row per class."""
    steps = images.facts["timesteps"]
    frames = images.images.unflatten(0, (len(steps), -1)).transpose(0, 1).flatten(0, 1)
    return grid(frames, len(steps), heads=[f"t = {t}" for t in steps])


def loss_curves(runs: dict[str, list[dict]]) -> Figure:
    """Training loss against images seen, one line per run: whatever was minimised, so a weighted error with min-SNR weights."""
    figure, axes = plt.subplots(figsize=(5.6, 2.8))
    for (name, stats), colour in zip(runs.items(), COLOURS, strict=False):
        seen, loss = (np.array([s[k] for s in stats]) for k in ("nimg", "loss"))
        span = np.diff(seen, prepend=0)
        whole = span >= span.max() / 2  # a line that a checkpoint cut short averages few steps: noise
        axes.plot(seen[whole], loss[whole], color=colour, label=name, linewidth=1.2)
    axes.set(xlabel="images seen", ylabel="training loss", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 4, 6)))
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend()
    return figure


def loss_by_timestep(runs: dict[str, list[dict]], timesteps: int) -> Figure:
    """Loss of the last tenth of training in bins of the timestep: where the error is."""
    figure, axes = plt.subplots(figsize=(5.6, 2.8))
    for (name, stats), colour in zip(runs.items(), COLOURS, strict=False):
        last = [s["loss_by_timestep"] for s in stats[-max(1, len(stats) // 10) :]]
        rows = np.ma.masked_invalid(
            [[np.nan if x is None else x for x in row] for row in last]
        )  # a bin may have no step
        edges = np.linspace(0, timesteps, rows.shape[1] + 1)
        axes.stairs(rows.mean(0).filled(np.nan), edges, color=colour, label=name, linewidth=1.4, baseline=None)
    axes.set(xlabel="timestep t (0 = image, last = noise)", ylabel="training loss", yscale="log")
    axes.legend()
    return figure


def schedules(named: dict[str, VP]) -> Figure:
    """How much of the image is left at each timestep, one line per noise schedule."""
    figure, axes = plt.subplots(figsize=(5.6, 2.8))
    for (name, diffusion), colour in zip(named.items(), COLOURS, strict=False):
        share, _ = objective(diffusion).mix(torch.arange(diffusion.timesteps))
        axes.plot(share, color=colour, label=name, linewidth=1.4)
    axes.set(xlabel="timestep t (0 = image, last = noise)", ylabel="share of the image √ᾱ")
    axes.legend()
    return figure

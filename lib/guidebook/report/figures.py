"""Figures of images and of training. Every axis has a label and a unit; a caption stands in the notebook beside it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from guidebook.config.errors import plain
from guidebook.config.schema import VP, Flow
from guidebook.diffusion.paths import levels, schedule, walk
from guidebook.metrics.curves import losses
from guidebook.metrics.intervals import Z
from guidebook.report.samples import samples
from guidebook.report.tables import Html
from guidebook.sampling.sets import ImageSet
from guidebook.training.power import density

COLOURS = ("#1b6ca8", "#c8553d", "#4a7c59", "#8a6fb0", "#b8860b", "#4b8b9b", "#9c4668", "#6b6b6b")
BESIDE = {"left": 0, "right": 1, "wspace": 0.35}  # of axes with labels in a figure that is cut to what is drawn
plt.rcParams.update({
    "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "legend.edgecolor": "none", "legend.framealpha": 0.85,
})  # fmt: skip
# A notebook draws a figure when it shows it, after its cell. Once more before that, for a window, takes a fifth of a page's time.
plt.switch_backend(plt.get_backend())
plt.uninstall_repl_displayhook()


def grid(images: np.ndarray, columns=10, rows: Sequence[str] = (), heads: Sequence[str] = (), tile=0.62) -> Html:
    """Images (N, C, H, W) uint8 row by row, each `tile` inches wide; names of rows, and `heads` of columns."""
    return samples(images, columns, [*map(cut, rows)], [*map(cut, heads)], round(110 * tile))


def pairs(images: ImageSet) -> Html:
    """A set of 2·N images, in pairs: the first of a pair above the second, ten pairs to a line."""
    lines = [images.pixels[first : first + 20] for first in range(0, len(images.pixels), 20)]
    rows = np.concatenate([row for line in lines for row in (line[::2], line[1::2])])
    return grid(rows, 10, rows=["sample", "nearest"] * len(lines), tile=0.75)


def by_class(images: ImageSet, classes: Sequence[str], rows: int = 30) -> Html:
    """One row per class, ten columns of seeds; at most the first `rows` classes."""
    seeds = min(10, len(images.pixels) // len(classes))
    shown = [images.pixels[k :: len(classes)][:seeds] for k in range(len(classes[:rows]))]
    return grid(np.concatenate(shown), seeds, rows=classes[:rows])


def grid_of_sets(sets: dict[str, ImageSet], classes: Sequence[str]) -> Html:
    """One row per set, one column per class, the same seed along a column."""
    k = len(classes)
    rows = [f"{name}, w = {s.draw.guidance.w:g}" for name, s in sets.items()]
    return grid(np.concatenate([s.pixels[:k] for s in sets.values()]), k, rows=rows, heads=classes)


def guidance_grid(sets: Sequence[ImageSet], names: Sequence[str] = "12345678", rows: int = 30) -> Html:
    """One row per class (or caption, numbered), one column per guidance scale, the same seed along a row."""
    rows = min(rows, len(names))
    images = np.concatenate(list(zip(*(s.pixels[:rows] for s in sets), strict=True)))
    return grid(images, len(sets), rows=names[:rows], heads=[f"w = {s.draw.guidance.w:g}" for s in sets], tile=0.75)


def before_and_after(images: ImageSet) -> Html:
    """The first half of a set above its second half, a column each."""
    return grid(images.pixels, len(images.pixels) // 2, rows=["before", "after"], tile=0.75)


def edited(images: ImageSet) -> Html:
    """Six faces at most, one per row: by its caption, then with one attribute of it switched, the same noise along a row."""
    heads = ["as asked", *(name.replace("Wearing_", "").replace("_", " ") for name in images.draw.edits)]
    rows = min(6, len(images.pixels) // len(heads))
    return grid(images.pixels[: rows * len(heads)], len(heads), heads=heads, tile=0.85)


def trajectory(images: ImageSet) -> Html:
    """From noise to image: one column per timestep, one row per class."""
    steps = images.facts["timesteps"]
    moments = np.split(images.pixels, len(steps))
    return grid(np.concatenate(list(zip(*moments, strict=True))), len(steps), heads=[f"t = {t}" for t in steps])


def loss_curves(runs: dict[str, list[dict]]) -> Figure:
    """Training loss against images seen, one line per run: the quantity minimised, so weighted where min-SNR is set."""
    axes = plt.figure(figsize=(5.6, 2.8)).add_subplot()
    for (name, stats), colour in zip(runs.items(), COLOURS, strict=False):
        axes.plot(*losses(stats), color=colour, label=name, linewidth=1.2)
    logarithmic(axes.yaxis)
    return _labelled(axes, "images seen", "training loss")


def loss_by_timestep(runs: dict[str, list[dict]], timesteps: int) -> Figure:
    """Loss of the last tenth of training in bins of the timestep; a bin that no step fell into has none."""
    axes = plt.figure(figsize=(5.6, 2.8)).add_subplot()
    for (name, stats), colour in zip(runs.items(), COLOURS, strict=False):
        last = [s["loss_by_timestep"] for s in stats[-max(1, len(stats) // 10) :]]
        loss = np.ma.masked_invalid(np.array(last, float)).mean(0).filled(np.nan)
        edges = np.linspace(0, timesteps, len(loss) + 1)
        axes.stairs(loss, edges, color=colour, label=name, linewidth=1.4, baseline=None)
    logarithmic(axes.yaxis)
    return _labelled(axes, "timestep t (0 = image, last = noise)", "training loss")


def validation_loss(runs: dict[str, list[dict]]) -> Figure:
    """Loss on held-out images against images seen, an axes per run, a line per noise level with its 95 % interval over images."""
    if not any("validation_loss" in s for stats in runs.values() for s in stats):
        return _missing("loss on held-out images")
    figure, plots = plt.subplots(1, len(runs), figsize=(0.9 + 3.4 * len(runs), 2.8), sharey=True, squeeze=False)
    for axes, (name, stats) in zip(plots[0], runs.items(), strict=True):
        lines = [s for s in stats if "validation_loss" in s]
        seen = [s["nimg"] for s in lines]
        levels, errors = (np.array([s[f"validation_{k}_by_level"] for s in lines]).T for k in ("loss", "error"))
        for i, (loss, error) in enumerate(zip(levels, errors, strict=True)):
            colour = plt.get_cmap("viridis")(share := (i + 0.5) / len(levels))
            axes.plot(seen, loss, ".-", color=colour, label=f"{share:.2f}", linewidth=1.2)
            axes.fill_between(seen, loss - Z * error, loss + Z * error, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="images seen", title=name * (len(runs) > 1) if lines else f"{name}: not recorded")
        axes.xaxis.set(major_locator=MaxNLocator(3), major_formatter="{x:,.0f}")
        logarithmic(axes.yaxis)
    plots[0][0].set_ylabel("validation loss")
    if plots[0][-1].lines:
        plots[0][-1].legend(title="training time\n0 image, 1 noise", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def loss_by_level(runs: dict[str, list[dict]]) -> Figure:
    """Loss on held-out images at the end of training by noise level, one line per run, with the 95 % interval over images."""
    axes = plt.figure(figsize=(5.6, 2.8)).add_subplot()
    for k, (name, stats) in enumerate(runs.items()):
        for last in [s for s in stats if "validation_loss" in s][-1:]:
            loss, error = (np.array(last[f"validation_{field}_by_level"]) for field in ("loss", "error"))
            share = (np.arange(len(loss)) + 0.5 + 0.08 * k) / len(loss)  # runs stand beside each other
            axes.errorbar(share, loss, Z * error, color=COLOURS[k], label=name, marker="o", markersize=4, capsize=2)
    logarithmic(axes.yaxis)
    return _labelled(axes, "training time (0 = image, 1 = noise)", "validation loss")


def attention(kinds: dict[str, list[list[dict]]]) -> Figure:
    """The largest logit of attention and the entropy of its weights against images seen, a line per training, coloured by kind."""
    if not any("largest_logit" in s for of in kinds.values() for stats in of for s in stats):
        return _missing("statistics of attention")
    figure, plots = plt.subplots(1, 2, figsize=(7.6, 2.8))
    for axes, field in zip(plots, ("largest_logit", "attention_entropy"), strict=True):
        for (name, trainings), colour in zip(kinds.items(), COLOURS, strict=False):
            for i, stats in enumerate(trainings):
                points = np.array([(s["nimg"], s[field]) for s in stats if field in s]).reshape(-1, 2)
                axes.plot(*points.T, ".-", color=colour, label=None if i else name, linewidth=1)
        axes.set(xlabel="images seen")
        axes.xaxis.set(major_locator=MaxNLocator(3), major_formatter="{x:,.0f}")
    plots[0].set(ylabel="largest logit", yscale="log")
    plots[1].set(ylabel="entropy / log T", ylim=(0, 1))
    plots[0].legend(fontsize=8, loc="center right")
    return figure


def schedules(named: dict[str, VP]) -> Figure:
    """The share of the image √ᾱ at each timestep, one line per noise schedule (`params.objective`)."""
    axes = plt.figure(figsize=(5.6, 2.8)).add_subplot()
    for (name, section), colour in zip(named.items(), COLOURS, strict=False):
        axes.plot(schedule(section)[0], color=colour, label=name, linewidth=1.4)
    return _labelled(axes, "timestep t (0 = image, last = noise)", "share of the image √ᾱ")


# x̂0 = (q x − s F) / (a q − s p): an error δ of F is s / |a q − s p| δ in x̂0;  w_t = λ / (1 − σ'/σ)
def image_errors(section: VP, steps: int) -> Figure:
    """At each of so many trailing steps of DDIM: how often an error of the network enters x̂0, and the plain scale of CFG++ at λ = 1,
    unclipped.
    """
    a, s = levels(section, steps)[:-1].T
    p, q = {"epsilon": (0.0, 1.0), "v_prediction": (-s, a), "sample": (1.0, 0.0)}[section.prediction]
    then, less = np.append(a[1:], 1.0), np.append(s[1:], 0.0)  # the image's last
    error, scale = s / abs(a * q - s * p), 1 / (1 - less * a / (then * s))
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 2.8), gridspec_kw=BESIDE)
    for axes, y, name in zip(
        panels, (error, scale), ("error of x̂0 / error of the network", "w of CFG++ / λ"), strict=True
    ):
        axes.plot(range(1, len(y) + 1), y, color=COLOURS[0], marker="o", markersize=3, linewidth=1.2)
        axes.annotate(f"{y[0]:,.3g}", (1, y[0]), xytext=(0, 7), ha="center", textcoords="offset points", fontsize=8)
        axes.axhline(1, color="0.35", linestyle="--", linewidth=1)
        axes.set(xlabel="step of DDIM", ylabel=name)
    logarithmic(panels[0].yaxis)
    return figure


def profiles(lengths: Sequence[float]) -> Figure:
    """Weights over time of power-function averages of these lengths, at the end of a training."""
    axes, tau = plt.figure(figsize=(5.6, 2.8)).add_subplot(), np.linspace(0, 1, 400)
    for i, length in enumerate(sorted(lengths)):
        colour = plt.get_cmap("viridis")((i + 0.5) / len(lengths))
        axes.plot(tau, density(length, tau), color=colour, label=f"{length:g}", linewidth=1.2)
    return _labelled(axes, "share of the training", "weight of the moment")


def paths(rows: dict[str, tuple[VP | Flow, np.ndarray]], steps: Sequence[int], sd: float) -> Figure:
    """Paths of DDIM in a plane from the same noise to images in blobs: a row per objective and centres (K, 2) of blobs, a column
    per number of steps. Pale behind them those of 500 steps; circles have a radius of two standard deviations."""
    noise, size = np.random.default_rng(0).normal(size=(9, 2)), (1.8 * len(steps), 1.45 * len(rows))
    figure, panels = plt.subplots(len(rows), len(steps), figsize=size, sharex=True, sharey=True, squeeze=False)
    for row, (name, (section, blobs)), colour in zip(panels, rows.items(), COLOURS, strict=False):
        exact = walk(noise, levels(section, 500), blobs, sd)
        for axes, n in zip(row, steps, strict=True):
            states = walk(noise, levels(section, n), blobs, sd)
            axes.plot(*exact.T.swapaxes(1, 2), color="0.75", linewidth=1)
            axes.plot(*states.T.swapaxes(1, 2), color=colour, marker=".", markersize=3, linewidth=0.8)
            axes.plot(*states[-1].T, "o", color=colour, markersize=4)
            for blob in blobs:
                axes.add_patch(plt.Circle(blob, 2 * sd, fill=False, color="0.35", linewidth=0.8))
            axes.set(aspect="equal", title=f"{n} step{'s' * (n > 1)}" if name == next(iter(rows)) else "")
        row[0].set_ylabel(label(name))
    return figure


def cut(words: str) -> str:
    """Words on one line, cut where they are very long."""
    return plain(words)[:60]


def label(words: str) -> str:
    """Words in a chart as they are: dollar signs make no formula, and what is very long is cut."""
    return cut(words).replace("$", r"\$")


def logarithmic(axis: Axis) -> None:
    """A logarithmic scale, with numbers as they are written: 20, not 2 × 10¹."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 4, 6)))
    axis.set_minor_formatter("{x:g}")


def _missing(what: str) -> Figure:
    figure = plt.figure(figsize=(5.6, 0.4))
    figure.add_subplot(frame_on=False, xticks=[], yticks=[]).text(0, 0.4, f"This record has no {what}.")
    return figure


def _labelled(axes: Axes, xlabel: str, ylabel: str) -> Figure:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(**({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(axes.lines) > 3 else {}))
    return axes.figure

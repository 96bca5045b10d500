"""Charts of metric records. Every value is drawn with its interval, and beside what real images score."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from guidebook.report.figures import COLOURS
from guidebook.sampling.sets import ImageSet

NAMES = {
    "adherence": "read as prompted (share)",
    "fd_judge": "Fréchet distance to the train split\n(judge's features)",
    "kd_judge": "kernel distance to the train split\n(judge's features)",
    "precision_judge": "precision (judge's features)",
    "recall_judge": "recall (judge's features)",
    "diversity": "distance within a class\n(judge's features)",
    "grain": "grain σ (pixel values 0–255)",
    "fid": "FID",
    "inception_score": "Inception Score",
    "saturation": "saturation (mean of HSV's)",
    "copying": "nearer to the train split than an\nunseen image (probability)",
}
LOG = ("fd_judge", "fid")
MARKERS = "osD^vPX*"


def against_guidance(runs: dict[str, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics with 95 % intervals against w, one panel each, one line per run; dashed is the test split of real images."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(3.4 * len(metrics), 2.9), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for k, ((name, records), colour) in enumerate(zip(runs.items(), COLOURS, strict=False)):
            points = sorted((r for r in records if r["metric"] == metric), key=lambda r: r["guidance"])
            _errors(axes, np.arange(len(points)) + 0.08 * k, points, color=colour, label=name, marker="o")
            axes.set_xticks(np.arange(len(points)), [f"{r['guidance']:g}" for r in points])
        _floor(axes, real, metric)
        axes.set(xlabel="guidance scale w (1 = off)", ylabel=NAMES[metric])
        if metric in LOG:
            axes.set_yscale("log")
            _plain(axes)
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def against_count(curves: dict[str, list[dict]]) -> Figure:
    """A Fréchet distance against 1/N, one line per set, with what it tends to at 1/N = 0."""
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    for k, (name, records) in enumerate(curves.items()):
        colour, metric = plt.cm.tab10(k), min((r["metric"] for r in records), key=len)
        points = sorted((r for r in records if r["metric"] == metric), key=lambda r: r["n"])
        _errors(axes, [1 / r["n"] for r in points], points, color=colour, label=name, marker="o")
        limit = [r for r in records if r["metric"] == f"{metric}_inf"]
        _errors(axes, [0] * len(limit), limit, color=colour, marker="x")
    axes.set(xlabel="1 / number of images N", ylabel=NAMES[metric], yscale="log" if metric in LOG else "linear")
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.legend(fontsize=8)
    return figure


def tradeoff(methods: dict[str, list[dict]], real: list[dict], x: str = "fd_judge", y: str = "adherence") -> Figure:
    """One metric against another, a line per way to guide and a point per scale."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    for k, (name, records) in enumerate(methods.items()):
        at = {
            w: {r["metric"]: r for r in records if r["guidance"] == w} for w in sorted({r["guidance"] for r in records})
        }
        across, up = [of[x] for of in at.values()], [of[y] for of in at.values()]
        colour = plt.cm.tab10(k)
        axes.errorbar(
            [r["value"] for r in across], [r["value"] for r in up], _arms(up), _arms(across), color=colour, label=name,
            marker=MARKERS[k % len(MARKERS)], markersize=4, linewidth=1.2 if len(at) > 1 else 0, elinewidth=0.6,
        )  # fmt: skip
        for w, a, b in zip(at, across, up, strict=True):
            axes.annotate(
                f"{w:g}", (a["value"], b["value"]), (4, -9), textcoords="offset points", fontsize=7, color=colour
            )
    _floor(axes, real, y)
    axes.axvline(next(r for r in real if r["metric"] == x)["value"], color="0.35", linestyle="--", linewidth=1)
    axes.set(xlabel=NAMES[x].replace("\n", " "), ylabel=NAMES[y], xscale="log" if x in LOG else "linear")
    axes.legend(fontsize=8)
    return figure


def _plain(axes: Axes) -> None:
    """Numbers as they are written, on a logarithmic axis: 20, not 2 × 10¹."""
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 4, 6)))
    axes.yaxis.set_minor_formatter("{x:g}")


def _arms(records: list[dict]) -> np.ndarray:
    """(2, n) how far the intervals reach below and above the values."""
    value, low, high = (np.array([r[f] for r in records], float) for f in ("value", "low", "high"))
    return np.abs([value - low, high - value])


def _errors(axes: Axes, x: Sequence[float], records: list[dict], **style) -> None:
    axes.errorbar(x, [r["value"] for r in records], _arms(records), markersize=4, linewidth=1.2, capsize=2, **style)


def _floor(axes: Axes, real: list[dict], metric: str) -> None:
    """What real images of the test split score."""
    floor = next(r for r in real if r["metric"] == metric)
    axes.axhline(floor["value"], color="0.35", linestyle="--", linewidth=1, label="real, test split")
    axes.axhspan(floor["low"], floor["high"], color="0.5", alpha=0.15, linewidth=0)


def against_images(progress: dict[int, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics against images seen in training, one panel each."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(3.4 * len(metrics), 2.9), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        points = [next(r for r in records if r["metric"] == metric) for records in progress.values()]
        _errors(axes, list(progress), points, color=COLOURS[0], marker="o")
        _floor(axes, real, metric)
        axes.set(xlabel="images seen", ylabel=NAMES[metric])
        if metric in LOG:
            axes.set_yscale("log")
            _plain(axes)
        axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


def against_cost(sets: list[tuple[ImageSet, list[dict]]], metric: str, real: list[dict]) -> Figure:
    """A metric against network evaluations per image, one line per solver."""
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    named = [
        (s.draw.solver_name, s.facts["evaluations"], next(r for r in of if r["metric"] == metric)) for s, of in sets
    ]
    for k, name in enumerate(dict.fromkeys(n for n, _, _ in named)):
        points = sorted(((cost, r) for n, cost, r in named if n == name), key=lambda p: p[0])
        style = {"color": plt.cm.tab10(k), "marker": MARKERS[k], "label": name}
        _errors(axes, [cost for cost, _ in points], [r for _, r in points], **style)
    _floor(axes, real, metric)
    axes.set(
        xlabel="network evaluations per image",
        ylabel=NAMES[metric],
        xscale="log",
        yscale="log" if metric in LOG else "linear",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=8)
    return figure


def obedience(records: list[dict], real: list[dict]) -> Figure:
    """How much likelier each attribute is seen where the caption asks for it: of samples, and as a ring of real images."""
    points = sorted((r for r in records if r["metric"] == "obedience"), key=lambda r: r["value"])
    floor = {r["attribute"]: r["value"] for r in real if r["metric"] == "obedience"}
    names, up = [r["attribute"] for r in points], np.arange(len(points))
    figure, axes = plt.subplots(figsize=(5.6, 0.9 + 0.19 * len(points)))
    axes.errorbar(
        [r["value"] for r in points], up, xerr=_arms(points) if points else None, fmt="o", markersize=4, linewidth=1.2,
        color=COLOURS[0], label="samples",
    )  # fmt: skip
    axes.plot([floor.get(name, np.nan) for name in names], up, "o", mfc="none", color="0.35", label="real, test split")
    axes.axvline(0, color="0.35", linewidth=0.8)
    axes.set_yticks(up, [name.replace("_", " ") for name in names], fontsize=7)
    axes.set(xlabel="seen where asked for − seen where not there (shares)", ylim=(-1, len(points)))
    axes.legend(fontsize=8, loc="upper left")
    return figure

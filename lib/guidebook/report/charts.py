"""Charts of metric records. Every value is drawn with its 95 % interval, and beside the score of real images."""

from collections.abc import Callable, Sequence
from operator import itemgetter

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from guidebook.config.schema import length_of
from guidebook.report.figures import BESIDE, COLOURS, label, logarithmic
from guidebook.report.tables import pick
from guidebook.sampling.sets import ImageSet

NAMES = {
    "adherence": "read as prompted (share)",
    "adherence_superclass": "read as of the superclass\n(share)",
    "fd_judge": "Fréchet distance to the train split\n(judge's features)",
    "fd_random": "Fréchet distance to the train split\n(features that know no classes)",
    "diversity_pixels": "distance within a class\n(pixels, 0–255)",
    "kd_judge": "kernel distance to the train split\n(judge's features)",
    "precision_judge": "precision (judge's features)",
    "recall_judge": "recall (judge's features)",
    "diversity": "distance within a class\n(judge's features)",
    "grain": "grain σ (pixel values 0–255)",
    "fid": "FID",
    "inception_score": "Inception Score",
    "saturation": "saturation (mean of HSV's)",
    "adherence_attribute": "attribute read as asked\n(balanced accuracy)",
    "roughness": "roughness about the trend\n(share of the level)",
    "validation_loss": "loss on held-out images",
    "apart": "distance from the mean of all trainings\n(share of the level)",
    "copying": "nearer to the train split than an\nunseen image (probability)",
}
LOG = ("fd_judge", "fd_random", "fid")
MARKERS = "osD^vPX*"


def against_guidance(runs: dict[str, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics against w, one panel each, one line per run; dashed is the test split of real images."""
    return _against(runs, metrics, real, "guidance scale w (1 = off)", itemgetter("guidance"))


def against_length(runs: dict[str, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics against the length of the average of weights, 0 being the last weights, one panel each, one line per run."""
    return _against(runs, metrics, real, "length of the average (share of the training)", averaged)


def against_steps(runs: dict[str, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics against the number of steps of the solver, one panel each, one line per run; of a run that was trained again the mean
    over its trainings, with its two-level interval."""
    means = {name: [alone(r | r.get("again", {})) for r in of] for name, of in runs.items()}
    return _against(means, metrics, real, "steps", lambda record: record["draw"]["solver"]["steps"])


def alone(record: dict) -> dict:
    """The record without what its other trainings gave."""
    return {key: value for key, value in record.items() if key != "again"}


def averaged(record: dict) -> float:
    """The length of the average whose samples a record is of; 0 of the last weights."""
    weights = record["draw"]["weights"]
    return 0.0 if weights == "raw" else length_of(weights)


def against_images(progress: dict[int, list[dict]], metrics: Sequence[str], real: list[dict]) -> Figure:
    """Metrics against images seen in training, one panel each."""
    figure, panels = _panels(metrics, "images seen", real)
    for axes, metric in zip(panels, metrics, strict=True):
        errors(axes, list(progress), [pick(r, metric) for r in progress.values()], color=COLOURS[0], marker="o")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.legend(fontsize=8)
    return figure


def by_training(kinds: dict[str, list[dict] | None]) -> Figure:
    """A metric of several trainings of each kind: a line joins those of one seed, which are compared. Empty where a kind has none."""
    figure, axes = plt.subplots(figsize=(1.6 + 1.3 * len(kinds), 2.9))
    axes.set(xlim=(-0.4, len(kinds) - 0.4))
    axes.set_xticks(range(len(kinds)), list(kinds))
    if all(kinds.values()):
        for k, same in enumerate(zip(*kinds.values(), strict=True)):
            place, colour = np.arange(len(kinds)) + 0.06 * k, COLOURS[k % len(COLOURS)]  # seeds stand beside each other
            errors(axes, place, [*map(alone, same)], color=colour, marker="o", label=f"seed {same[0]['training']}")
        axes.set(ylim=(0, None), ylabel=NAMES[same[0]["metric"]])
        axes.legend(fontsize=8)
    return figure


def against_count(curves: dict[str, list[dict]]) -> Figure:
    """A Fréchet distance against 1/N, one line per set, with its limit at 1/N = 0."""
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    for k, (name, records) in enumerate(curves.items()):
        colour, metric = plt.cm.tab10(k), min((r["metric"] for r in records), key=len)
        points = sorted((r for r in records if r["metric"] == metric), key=lambda r: r["n"])
        errors(axes, [1 / r["n"] for r in points], points, color=colour, label=name, marker="o")
        limit = [r for r in records if r["metric"] == f"{metric}_inf"]
        errors(axes, [0] * len(limit), limit, color=colour, marker="x")
    axes.set(xlabel="1 / number of images N", ylabel=NAMES[metric])
    if metric in LOG:
        logarithmic(axes.yaxis)
        axes.yaxis.set_minor_formatter("")  # it spans decades
    axes.axvline(0, color="0.7", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.legend(fontsize=8)
    return figure


def against_cost(sets: list[tuple[ImageSet, list[dict]]], metric: str, real: list[dict]) -> Figure:
    """A metric against network evaluations per image, one line per solver."""
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    sets = sorted(sets, key=lambda s: s[0].facts["evaluations"])
    for k, name in enumerate(dict.fromkeys(images.draw.solver_name for images, _ in sets)):
        of = [(images.facts["evaluations"], pick(r, metric)) for images, r in sets if images.draw.solver_name == name]
        errors(axes, *zip(*of, strict=True), color=plt.cm.tab10(k), marker=MARKERS[k], label=name)
    _finish(axes, "network evaluations per image", metric, real)
    logarithmic(axes.xaxis)
    axes.legend(fontsize=8)
    return figure


def tradeoff(methods: dict[str, list[dict]], real: list[dict]) -> Figure:
    """Adherence against the distance to real images, whose own would lie far to the left; one line per guidance method, one point per scale."""
    figure, axes = plt.subplots(figsize=(6.8, 4.6))
    for k, (name, records) in enumerate(methods.items()):
        scales, colour = sorted({r["guidance"] for r in records}), plt.cm.tab10(k)
        across, up = ([pick(records, m, guidance=w) for w in scales] for m in ("fd_judge", "adherence"))
        style = {"color": colour, "label": name, "marker": MARKERS[k % len(MARKERS)], "capsize": 0, "elinewidth": 0.6}
        style |= {"xerr": arms(across), "linewidth": 1.2 if len(scales) > 1 else 0}
        errors(axes, [r["value"] for r in across], up, **style)
        place = {"xytext": (4, -9), "textcoords": "offset points", "fontsize": 7, "color": colour}
        for w, a, b in zip(scales, across, up, strict=True):
            axes.annotate(f"{w:g}", (a["value"], b["value"]), **place)
    _finish(axes, NAMES["fd_judge"].replace("\n", " "), "adherence", real)
    logarithmic(axes.xaxis)
    axes.legend(fontsize=8)
    return figure


def obedience(records: list[dict], real: list[dict]) -> Figure:
    """How much likelier each attribute is seen where its caption has it: of samples, and as a ring of real images."""
    points = sorted((r for r in records if r["metric"] == "obedience"), key=lambda r: r["value"])
    floor = {r["attribute"]: r["value"] for r in real if r["metric"] == "obedience"}
    names, up = [r["attribute"] for r in points], np.arange(len(points))
    figure, axes = plt.subplots(figsize=(5.6, 0.9 + 0.19 * len(points)))
    style = {"fmt": "o", "markersize": 4, "linewidth": 1.2, "color": COLOURS[0], "label": "samples"}
    axes.errorbar([r["value"] for r in points], up, xerr=arms(points) if points else None, **style)
    axes.plot([floor.get(name, np.nan) for name in names], up, "o", mfc="none", color="0.35", label="real, test split")
    axes.axvline(0, color="0.35", linewidth=0.8)
    axes.set_yticks(up, [label(name.replace("_", " ")) for name in names], fontsize=7)
    axes.set(xlabel="seen where asked for − seen where not there (shares)", ylim=(-1, len(points)))
    axes.legend(fontsize=8, loc="upper left")
    return figure


def _against(
    runs: dict[str, list[dict]], metrics: Sequence[str], real: list[dict], xlabel: str, key: Callable
) -> Figure:
    figure, panels = _panels(metrics, xlabel, real)
    for axes, metric in zip(panels, metrics, strict=True):
        lines = {name: sorted((r for r in of if r["metric"] == metric), key=key) for name, of in runs.items()}
        values = sorted({key(r) for of in lines.values() for r in of})
        for k, (name, points) in enumerate(lines.items()):
            place = [values.index(key(r)) + 0.08 * k for r in points]  # values stand evenly, and runs beside each other
            errors(axes, place, points, color=COLOURS[k % len(COLOURS)], label=name, marker=MARKERS[k // len(COLOURS)])
        axes.set_xticks(range(len(values)), [f"{x:g}" for x in values])
    # Above the panels: within one it would hide lines
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.9), "ncols": 2 * len(metrics)}
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, **above)
    return figure


def _panels(metrics: Sequence[str], xlabel: str, real: list[dict]) -> tuple[Figure, np.ndarray]:
    size = (3.4 * len(metrics), 2.9)
    figure, panels = plt.subplots(1, len(metrics), figsize=size, squeeze=False, gridspec_kw=BESIDE)
    for axes, metric in zip(panels[0], metrics, strict=True):
        _finish(axes, xlabel, metric, real)
    return figure, panels[0]


def arms(records: list[dict]) -> np.ndarray:
    """(2, n) lengths of the intervals below and above the values."""
    value, low, high = (np.array([r[f] for r in records], float) for f in ("value", "low", "high"))
    return np.abs([value - low, high - value])


def errors(axes: Axes, x: Sequence[float], records: list[dict], **style) -> None:
    """Values with their intervals; where the run was trained again, a pale bar behind is the two-level interval of the mean over trainings."""
    usual = {"markersize": 4, "linewidth": 1.2, "capsize": 2}
    axes.errorbar(x, [r["value"] for r in records], arms(records), **usual | style)
    for place, again in ((place, r["again"]) for place, r in zip(x, records, strict=True) if "again" in r):
        axes.vlines(place, again["low"], again["high"], color=style["color"], alpha=0.3, linewidth=5)


def _finish(axes: Axes, xlabel: str, metric: str, real: list[dict]) -> None:
    """Labels, and the score of real images of the test split, where they suffice to have one."""
    if floor := pick(real, metric):
        axes.axhline(floor["value"], color="0.35", linestyle="--", linewidth=1, label="real, test split")
        axes.axhspan(floor["low"], floor["high"], color="0.5", alpha=0.15, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=NAMES[metric])
    if metric in LOG:
        logarithmic(axes.yaxis)

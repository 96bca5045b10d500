"""The page on a Fréchet distance of six images: figures, tables and verdicts, from the record that `python -m bench six` writes."""

import json
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.config.paths import RESULTS
from guidebook.metrics.compare import ALPHA, FAILS, HOLDS, UNDECIDED
from guidebook.metrics.difference import times
from guidebook.report.charts import MARKERS, arms, errors
from guidebook.report.figures import COLOURS, label, logarithmic
from guidebook.report.tables import Html, table

FILE = RESULTS / "six-images.json"
FIRST, SECOND = 1332.33, 1088.94  # the published distances, without and with guidance and EMA
REAL = "real"  # the name of real images among the models
AGAINST = {"six": "against six others", "others": "against {reference:,} others"}
SPACES = {
    "pca-64": "64 principal components",
    "pca-256": "256 principal components",
    "random": "random convolutions",
    "judge": "classifier of CIFAR-10",
    "inception": "Inception",
}


def read() -> dict:
    """The record of the page."""
    return json.loads(FILE.read_text())


def ratios(found: dict) -> Figure:
    """The share of draws in which a second measurement of the same images is at most so many times the first."""
    figure, panels = _panels(found)
    for axes, way in zip(panels, AGAINST, strict=True):
        for space, style in _styled(found):
            quantiles = space["chance"][way]["ratios"]
            axes.plot(quantiles, np.linspace(0, 1, len(quantiles)), **style | {"marker": "none"})
        axes.axvline(SECOND / FIRST, color="0.35", linestyle="--", linewidth=1)
        axes.axhline(ALPHA, color="0.35", linestyle=":", linewidth=1)
        logarithmic(axes.xaxis)
        axes.set(xlim=(0.3, 1.5), ylim=(0, 0.8), xlabel="second distance / first, of the same model")
    panels[0].set_ylabel("share of draws at or below")
    panels[0].legend(fontsize=8)
    return figure


def curve(found: dict) -> Figure:
    """The distance of N real images to others as a multiple of that of the most, with the range of 19 in 20 sets."""
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    for k, (space, style) in enumerate(_styled(found)):
        of_all = space["curve"][-1]["value"]
        points = [times(p, 1 / of_all) for p in space["curve"]]
        errors(axes, [p["n"] * 1.03**k for p in points], points, **style)
    axes.set(xlabel="number of images N")
    axes.set_ylabel(f"Fréchet distance, as a multiple\nof that of {found['spaces'][0]['curve'][-1]['n']:,} images")
    for axis in (axes.xaxis, axes.yaxis):
        logarithmic(axis)
        axis.set_minor_formatter("")
    axes.legend(fontsize=8)
    return figure


def ranking(found: dict) -> Figure:
    """How often six images of a worse model are farther than six real ones, with Wilson's interval."""
    figure, panels = _panels(found, height=3.4, sharey=True)
    names = [m["name"] for m in found["spaces"][0]["models"]]
    for axes, way in zip(panels, AGAINST, strict=True):
        for k, (space, style) in enumerate(_styled(found)):
            right = [m[way]["right"] for m in space["models"]]
            value, up = [r["value"] for r in right], -np.arange(len(names)) + 0.13 * (1.5 - k)
            axes.errorbar(value, up, xerr=arms(right), fmt="none", ecolor=style["color"])
            axes.scatter(value, up, s=18, **style)
        axes.axvline(0.5, color="0.35", linestyle=":", linewidth=1)
        axes.set(xlim=(-0.03, 1.03), xlabel="share of draws")
        axes.set_yticks(-np.arange(len(names)), [*map(label, names)])
    panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def chances(found: dict) -> Html:
    """Each space: the distance of six real images, its spread, and the chance of the published fall."""
    heads, rows = ["distance of six [95 % of draws]", "spread", "falls so by chance", "1 in 20 falls to"], []
    for space, way, at in _each(found):
        least = f"{100 * at['ratios'][round(100 * ALPHA)]:.0f} %"
        value = "{mean:,.3g} [{low:,.3g}, {high:,.3g}]".format(**at)
        what = f"{SPACES[space['name']]}, {_against(found, way)}", space["width"]
        rows.append([*what, value, f"{at['spread']:.0%}", _percent(at["fall"]), least])
    return table(["features", "width", *heads], rows)


def models(found: dict) -> Html:
    """Each worse model: how much farther it is at many images, and what six images say, in every space."""
    heads = [f"{what}, {_against(found, w)}" for what in ("ranked behind", "falls so by chance") for w in AGAINST]
    rows = []
    for i, model in enumerate(found["spaces"][0]["models"]):
        for k, space in enumerate(found["spaces"]):
            of = space["models"][i]
            cells = [_percent(of[w][f]) for f in ("right", "fall") for w in AGAINST]
            rows.append([model["name"] if k == 0 else None, SPACES[space["name"]], f"{of['at_large']:.2f} ×", *cells])
    return table(["model", "features", f"at {found['made']['large']} images", *heads], rows)


def multiples(found: dict) -> str:
    """How many times the distance of the most images that of six is, in each space."""
    each = [f"{s['curve'][0]['value'] / s['curve'][-1]['value']:,.0f} ({SPACES[s['name']]})" for s in found["spaces"]]
    return ", ".join(each)


def spreads(found: dict) -> str:
    """The standard deviation of the difference of two distances of six in percent of their mean, beside the published fall."""
    each = [2**0.5 * 100 * at["spread"] for _, _, at in _each(found)]
    fall = 200 * (FIRST - SECOND) / (FIRST + SECOND)
    return f"{min(each):.0f} to {max(each):.0f} % of the mean, and the published fall is {fall:.0f} % of it"


def left_out(found: dict) -> str:
    """The spaces that were not measured, each with the reason in a few words."""
    return "; ".join(f"{SPACES[name]}: {why.partition(': ')[0]}" for name, why in found["left_out"].items()) or "none"


def significant(found: dict) -> tuple[str, tuple[str, str]]:
    """The verdict on the published fall, beyond chance or not: decided by Inception's features alone, in which it was measured."""
    falls = [at["fall"] for _, _, at in _each(found)]
    theirs = [at["fall"] for space, _, at in _each(found) if space["name"] == "inception"]
    low, high = _ends(theirs)
    outcome = HOLDS if high < ALPHA else FAILS if low > ALPHA else UNDECIDED
    text = f"with one model it falls so by chance {_range(falls)} of the time"
    return text, (outcome, f"{_rests(found)}; Wilson's intervals")


def apart(found: dict) -> tuple[str, tuple[str, str]]:
    """The verdict on six images: do they rank models that are worse by the published ratio or more behind real ones?"""
    rights = [s["right"][way] for s in found["spaces"] for way in AGAINST]
    low, high = _ends(rights)
    outcome = HOLDS if low > 1 - ALPHA else FAILS if high < 1 - ALPHA else UNDECIDED
    text = f"of a model that is worse by the published ratio or more, six images say that it is worse {_range(rights)} of the time"
    return text, (outcome, f"{_rests(found)}; normal intervals")


def side(found: dict) -> tuple[str, tuple[str, str]]:
    """The verdict on the size of CIFAR-100's images, 64 pixels as published or not."""
    text = "{images:,} test images have {side} × {side} pixels".format(**found["made"])
    return text, (HOLDS if found["made"]["side"] == 64 else FAILS, "")


def _rests(found: dict) -> str:
    """On how many draws and which spaces the verdicts rest."""
    n, names = found["spaces"][0]["chance"]["six"]["fall"]["n"], [s["name"] for s in found["spaces"]]
    return f"{n:,} draws in each of {len(names)} feature spaces, {'with' if 'inception' in names else 'not in'} Inception's"


def _ends(shares: list[dict]) -> tuple[float, float]:
    """The least and the greatest end of the intervals of all shares; of none 0 and 1, which decide nothing."""
    return min((s["low"] for s in shares), default=0.0), max((s["high"] for s in shares), default=1.0)


def _each(found: dict) -> Iterator[tuple[dict, str, dict]]:
    """(space, way, chance) of every space against six images and against all the others."""
    yield from ((space, way, space["chance"][way]) for space in found["spaces"] for way in AGAINST)


def _against(found: dict, way: str) -> str:
    return AGAINST[way].format(**found["made"])


def _percent(found: dict) -> str:
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * found[k] for k in ("value", "low", "high")))


def _range(shares: list[dict]) -> str:
    """From the least to the most of several shares."""
    least, most = (pick(shares, key=lambda s: s["value"]) for pick in (min, max))
    return f"{_percent(least)} to {_percent(most)}"


def _styled(found: dict) -> Iterator[tuple[dict, dict]]:
    """Every space with the colour, the marker and the label of its line."""
    for space, colour, marker in zip(found["spaces"], (*COLOURS, "0.25"), MARKERS, strict=False):
        yield space, {"color": colour, "marker": marker, "label": SPACES[space["name"]]}


def _panels(found: dict, height: float = 2.9, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    figure, panels = plt.subplots(1, len(AGAINST), figsize=(7.2, height), layout="tight", sharey=sharey)
    for axes, way in zip(panels, AGAINST, strict=True):
        axes.set_title(_against(found, way), fontsize=9, loc="left")
    return figure, panels

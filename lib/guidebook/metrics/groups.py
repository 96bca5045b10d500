"""The groups that `measure` takes: metrics that are made together, and left out together where weights are missing.

A new metric is a function that returns an `Interval`, its call in a function of `records`, its name here and, if it needs published
weights, these in `weights.NEEDED`. A chart of it needs a label in `report.charts.NAMES`, a column of the usual table its name in `report.tables.SHOWN`, and a
reader a row in `book/how-to-read.md`. Curves, edits and round trips have functions of their own in `measure`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from guidebook.metrics.subject import Subject
from guidebook.runs.run import Run

TRAIN, JACKKNIFE = "train split", "infinitesimal jackknife"
# The name of a Fréchet distance in each feature space
FRECHET = {"judge": "fd_judge", "random": "fd_random", "inception": "fid"}
MANIFOLD = ("precision", "recall", "density", "coverage")
SHARES = ("adherence", "adherence_superclass", "confidence", "adherence_attribute", "edit", "edit_before", "accuracy_untrained",
          "copies", "falls_of_six")  # fmt: skip
# All that lies between 0 and 1
PROPORTIONS = (*SHARES, "copying", *(m + of for m in MANIFOLD if m != "density" for of in ("", "_judge")))


def lazily(function: str, **how: Any) -> Callable:
    """The function `module:name` of metrics, imported when it measures: a record is read without torch."""
    return lambda *of: resolve_name(f"guidebook.metrics.{function}")(*of, **how)


@dataclass(frozen=True)
class Group:
    metrics: tuple[str, ...]
    make: Callable[[Run, Subject], list[dict]]


GROUPS = {
    "judge": Group(
        ("adherence", "adherence_superclass", "confidence", "fd_judge", "fd_judge_inf", "diversity", "grain"),
        lazily("records:of_judge"),
    ),
    "blind": Group(("fd_random", "fd_random_inf", "diversity_pixels"), lazily("records:of_blind")),
    "manifold": Group(("kd_judge", *(f"{m}_judge" for m in MANIFOLD)), lazily("records:between_sets", space="judge")),
    "published": Group(("accuracy_untrained",), lazily("untrained:of_untrained")),
    "copying": Group(("copying", "copies"), lazily("records:of_copying")),
    "colour": Group(("saturation",), lazily("records:of_colour")),
    "inception": Group(("fid", "kid", *MANIFOLD, "inception_score", "fid_inf"), lazily("records:of_inception")),
    "clip": Group(("clip_score",), lazily("records:of_clip")),
    "lpips": Group(("lpips_diversity",), lazily("records:of_lpips")),
}

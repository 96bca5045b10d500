"""Differences of metric records, as estimates with their uncertainty.

Sets drawn from the same seeds share their noise, so that their difference varies less than that of independent sets: it is taken image by
image, from each image's influence on the value, which a record holds. Of several trainings of each kind, the interval covers training again, too.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from guidebook.metrics.groups import PROPORTIONS
from guidebook.metrics.intervals import Interval, Z, mean, proportion
from guidebook.metrics.subject import packed

ALPHA = 0.05  # at no effect, at most so many verdicts decide
SAME = ("metric", "attribute", "n", "extractor", "reference")  # fields in which two records must agree
MEANS = {"normal", "Wilson"}  # intervals of means and shares
Records = dict | Sequence[dict] | float | None  # a record, one of each training, or a number; None: not measured


class NotComparable(ValueError):
    """Two records whose difference means nothing, or too few trainings. One line names both."""


@dataclass(frozen=True)
class Difference:
    """The difference of two values, or the mean of one over trainings, as an estimate with its uncertainty."""

    value: float
    error: float  # standard error over the draw of samples; of several trainings, of what they make of the seeds alike
    continuity: float  # 1/n of a share, which moves by whole images (Edwards 1948); 0 of other values
    spread: float  # standard error over trainings; 0 of one training
    trainings: int
    most: float = float("inf")  # the largest difference that there can be: 1 of two shares

    def interval(self, alpha: float = ALPHA) -> Interval:
        """Two-level interval: Student's t over trainings and normal over samples, their squares added."""
        reach = NormalDist().inv_cdf(1 - alpha / 2) * self.error + self.continuity
        if self.trainings > 1:
            from scipy.special import stdtrit

            reach = float(np.hypot(reach, stdtrit(self.trainings - 1, 1 - alpha / 2) * self.spread))
        return Interval(self.value, max(self.value - reach, -self.most), min(self.value + reach, self.most))

    def p(self) -> float:
        """The level at which the interval begins to leave out zero."""
        most, least = 1.0, 0.0
        while most - least > 1e-3 * most and most > 1e-12:
            _, low, high = self.interval(level := (most + least) / 2)
            most, least = (level, least) if low > 0 or high < 0 else (most, level)
        return most


# Of shares the variance is McNemar's: (b + c − (b − c)² / n) / n², b and c the images that are right in one set alone (Agresti & Min
# 2005, with half an image more of each kind)
def difference(a: Records, b: Records, differ: Sequence[str] = (), training: bool = False) -> Difference:
    """a − b, paired image by image where both records keep influences. Raises NotComparable."""
    if isinstance(b, float):
        return _beyond(a, b)
    if isinstance(a, float):
        below = _beyond(b, a)
        return replace(below, value=-below.value)
    firsts, seconds = ([r] if isinstance(r, dict) else list(r) for r in (a, b))
    _check(firsts, seconds, differ, training)
    pairs, every = list(zip(firsts, seconds, strict=True)), [*firsts, *seconds]
    values = np.array([x["value"] - y["value"] for x, y in pairs])
    most = 1.0 if firsts[0]["metric"] in PROPORTIONS else float("inf")
    if not all(r["draw"] and r.get("influence") for r in every):  # not of the same seeds
        found, errors = _over_trainings(values), [(r["high"] - r["low"]) / (2 * Z) for r in every]
        independent = float(np.square(errors).sum() / len(firsts) ** 2)
        return replace(found, error=max(0.0, independent - found.spread**2) ** 0.5, most=most)
    each = np.array([influence(x) - influence(y) for x, y in pairs])
    found, own, n = _over_trainings(values, each), each[0], each.shape[1]
    if len(each) == 1 and np.isin(own, (-1, 0, 1)).all():
        error = (np.count_nonzero(own) + 1 - own.sum() ** 2 / n) ** 0.5 / n
        return replace(found, error=error, continuity=1 / n, most=most)
    return replace(found, most=most)


def _over_trainings(values: np.ndarray, each: np.ndarray | None = None, error: float = 0.0) -> Difference:
    """The mean of values (K,) over trainings, whose influences over the same seeds are `each` (K, n), without which `error` is given."""
    k = len(values)
    spread = float(values.std(ddof=1)) / k**0.5 if k > 1 else 0.0
    if each is not None:
        mean, n = each.mean(0), each.shape[1]
        error = float(mean.std(ddof=1)) / n**0.5
        if k > 1:  # what a training makes of an image of its own is in the spread over trainings already
            own = each - each.mean(1, keepdims=True) - mean + mean.mean()
            error = max(0.0, error**2 - float(np.square(own).sum()) / ((n - 1) * (k - 1) * n * k)) ** 0.5
    return Difference(float(values.mean()), error, 0.0, spread, k)


def _beyond(a: dict | Sequence[dict], bound: float) -> Difference:
    """A record's value less a number, by that half of its interval that looks to the number; or trainings' values, by their spread."""
    if isinstance(a, dict):
        half = a["value"] - a["low"] if a["value"] > bound else a["high"] - a["value"]
        return Difference(a["value"] - bound, half / Z, 0.0, 0.0, 1)
    found = _over_trainings(np.array([r["value"] for r in a]))
    return replace(found, value=found.value - bound)


def _check(firsts: list[dict], seconds: list[dict], differ: Sequence[str], training: bool) -> None:
    if len(firsts) != len(seconds) or (training and len(firsts) < 2):
        raise NotComparable(
            f"{_named(firsts[0])} of {len(firsts)} and {_named(seconds[0])} of {len(seconds)} trainings: "
            + ("a claim about training needs two or more of each" if training else "give as many of each")
        )
    for side in (firsts, seconds):
        if len(set(seeds := [r.get("training") for r in side])) < len(seeds):
            raise NotComparable(f"{_named(side[0])}: the trainings have seeds {seeds}, of which two are the same")
    for a, b in zip(firsts, seconds, strict=True):
        draws = [{f"draw.{k}": v for k, v in (r["draw"] or {}).items() if k not in differ} for r in (a, b)]
        facts = [{k: r.get(k) for k in SAME} | draw for r, draw in zip((a, b), draws, strict=True)]
        keys = dict.fromkeys([*facts[0], *facts[1]]) if a["draw"] and b["draw"] else SAME
        if keys is SAME and {a.get("interval"), b.get("interval")} <= MEANS:  # whose expectation is the same of any n
            keys = [key for key in SAME if key != "n"]
        for key in keys:
            if (x := facts[0].get(key)) != (y := facts[1].get(key)):
                raise NotComparable(f"{_named(a)} and {_named(b)} do not compare: {key} is {x} and {y}")


def _named(record: dict) -> str:
    w = "" if record.get("guidance") is None else f" at w = {record['guidance']:g}"
    return f"{record['metric']}{w} (n = {record['n']:,}, {record['extractor']})"


# Records made of others


def among(record: dict, rows: np.ndarray) -> dict:
    """The record of a mean, of the images (n,) bool alone that are chosen: by what is seen in all sets that are compared."""
    value, low, high = mean(each := influence(record)[rows])
    return record | {"value": value, "low": low, "high": high, "n": len(each), "influence": packed(each)}


def minus(a: dict, b: dict, differ: Sequence[str] = ()) -> dict:
    """The record of the difference of two means, image by image over the same seeds: their excess. Raises NotComparable."""
    value, low, high = difference(a, b, differ).interval()
    return a | {"value": value, "low": low, "high": high, "influence": packed(influence(a) - influence(b))}


def times(record: dict, factor: float) -> dict:
    """The record of so many times the value: to ask whether another is above that."""
    kept = {"influence": i | {"scale": factor * i["scale"]}} if (i := record.get("influence")) else {}
    return record | {field: factor * record[field] for field in ("value", "low", "high")} | kept | {"factor": factor}


def numbers(values: Sequence[float | None], metric: str) -> list[dict] | None:
    """Records of one number of each training, by which `above` is Student's paired t test; None where one was not measured.

    The numbers are those of trainings with the same seeds in the same order on both sides.
    """
    if None in values:
        return None
    exact = {"metric": metric, "n": 1, "extractor": "statistics of training", "reference": None, "draw": None}
    return [exact | {"value": x, "low": x, "high": x, "training": k} for k, x in enumerate(values)]


def influence(record: dict, field: str = "influence") -> np.ndarray | None:
    """Every image's influence on the value of a record, (n,), or other numbers kept likewise; None where it keeps none."""
    if not (stored := record.get(field)):
        return None
    return np.frombuffer(base64.b64decode(stored["f16"]), "<f2").astype(np.float64) * stored["scale"]


def again(record: dict, others: Sequence[dict]) -> dict:
    """The record with `again`, the mean over its training and others: `value`, the two-level `low` and `high`, the standard deviation
    `spread` over `trainings`. Without it where no other is of a set that was drawn and measured alike.
    """
    alike = {r.get("training"): r for r in others if all(r.get(k) == record.get(k) for k in (*SAME, "draw"))}
    every = [record, *(r for seed, r in alike.items() if seed != record.get("training"))]
    if len(every) == 1:
        return record
    kept = all(r.get("influence") for r in every)  # the noise of their images is the same
    each, errors = [influence(r) for r in every if kept], [(r["high"] - r["low"]) / (2 * Z) for r in every]
    values = np.array([r["value"] for r in every])
    mean = _over_trainings(values, np.array(each) if kept else None, float(np.mean(errors)))
    found, k = mean.interval(), len(every)
    value, low, high = proportion(found) if record["metric"] in PROPORTIONS else found
    told = {"value": value, "low": low, "high": high, "spread": mean.spread * k**0.5, "trainings": k}
    return record | {"again": told}

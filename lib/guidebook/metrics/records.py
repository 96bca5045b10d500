"""Metric records: the fields by which every number of the study says what it is of and how it was found."""

from typing import Any

import numpy as np

from guidebook.metrics.intervals import Interval

HOW = ("guidance", "prompt", "sampler", "steps", "weights", "seed")  # facts of a draw that every record repeats
ALSO = ("eta", "spacing", "method", "settings", "guide", "at")  # given only where they are not as usual
REAL = dict.fromkeys((*HOW, "seconds_per_image"))  # the same fields of real images


def fields(facts: dict) -> dict:
    """The fields of the records of a set of samples, from the facts in its `set.json`."""
    return {k: facts.get(k) for k in (*REAL, "n")} | {k: facts[k] for k in ALSO if k in facts}


def record(
    metric: str,
    value: Interval,
    method: str,  # how the interval was found
    extractor: Any,  # what the images were read by: a name, or a network with one
    reference: str | None,
    known: dict,
) -> dict:
    middle, low, high = (float(np.round(x, 6)) for x in value)
    body = {"metric": metric, "value": middle, "low": low, "high": high, "interval": method}
    return body | known | {"extractor": getattr(extractor, "name", extractor), "reference": reference}

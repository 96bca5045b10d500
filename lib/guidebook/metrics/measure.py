"""Metric records of image sets: measured once, found afterwards."""

import functools

import numpy as np
import torch

from guidebook.data.images import load
from guidebook.imagesets import ImageSet
from guidebook.metrics import intervals
from guidebook.metrics.distances import diversity, frechet, grain
from guidebook.metrics.intervals import Interval
from guidebook.metrics.judge import judge
from guidebook.params import Data, digest
from guidebook.run import Run

REAL = "test split"


def measure(run: Run, images: ImageSet) -> list[dict]:
    """Records of a set of samples: adherence, fd_judge, diversity, grain.

    `fd_judge` is a Fréchet distance to the train split in the judge's features. It is no FID and cannot be compared with one.
    """
    asked = {k: images.facts[k] for k in ("guidance", "prompt", "sampler", "steps", "weights", "seed", "n")}
    known = {**asked, "seconds_per_image": images.facts["seconds_per_image"]}
    return _found_or_made(run, images.name, asked, lambda: _records(run, images.images, images.labels, known))


def measure_real(run: Run) -> list[dict]:
    """The same records of the test split, which no model has seen: what a perfect model would reach."""
    known = dict.fromkeys(("guidance", "prompt", "sampler", "steps", "weights", "seed", "seconds_per_image"))
    samples = run.params.evaluate.samples

    def make():
        test = load(run.params.data).test
        return _records(run, test.images, test.labels, known | {"n": len(test)})

    return _found_or_made(run, REAL, {"real": True, "samples": samples}, make)


def _found_or_made(run: Run, name: str, asked: dict, make) -> list[dict]:
    key = digest([name, asked, run.params.evaluate.bootstrap])
    if not (found := run.metrics(key=key)):
        run.needs(f"the measurement of {name}")
        found = [r | {"set": name, "key": key} for r in make()]
        run.add_metrics(found)
    return found


def _records(run: Run, images: torch.Tensor, labels: torch.Tensor, known: dict) -> list[dict]:
    reader, data, again = judge(run.params.data), load(run.params.data), run.params.evaluate.bootstrap
    read, features = reader.read(images)
    features, reference = features.numpy(), _reference(run.params.data)
    # A Fréchet distance falls with the number of images: samples and real images are measured at the same number.
    n = min(run.params.evaluate.samples, len(data.test), len(images))
    fd = intervals.bootstrap(lambda rows: frechet(rows, reference), features[:n], again, seed=0)
    right = int((read == labels).sum())
    return [
        _record("adherence", intervals.wilson(right, len(labels)), "Wilson", reader.name, None, known),
        _record("fd_judge", fd, f"bootstrap, {again} resamples", reader.name, "train split", known | {"n": n}),
        _record("diversity", diversity(features, labels.numpy()), "jackknife", reader.name, None, known),
        _record("grain", intervals.mean(grain(images.numpy())), "normal", "Immerkær 1996", None, known),
    ]


@functools.lru_cache(maxsize=2)
def _reference(data: Data) -> np.ndarray:
    """The judge's features of the train split."""
    return judge(data).read(load(data).train.images)[1].numpy()


def _record(metric: str, value: Interval, method: str, extractor: str, reference: str | None, known: dict) -> dict:
    low, high = (float(np.round(x, 6)) for x in value[1:])
    body = {"metric": metric, "value": float(np.round(value[0], 6)), "low": low, "high": high, "interval": method}
    return body | known | {"extractor": extractor, "reference": reference}


def judge_record(run: Run) -> dict:
    """How well the judge itself reads the test split: the record `adherence` of the real images."""
    return next(r for r in measure_real(run) if r["metric"] == "adherence")

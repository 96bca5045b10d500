"""Metric records of image sets: measured once, found afterwards."""

import functools

import numpy as np
import torch

from guidebook import pool
from guidebook.data.images import load
from guidebook.imagesets import ImageSet, stored
from guidebook.lock import owned
from guidebook.metrics import intervals
from guidebook.metrics.distances import diversity, frechet, grain
from guidebook.metrics.intervals import Interval
from guidebook.metrics.judge import judge
from guidebook.params import Data, digest
from guidebook.processes import barrier, gathered, main_first, share, world
from guidebook.run import Run

REAL = "test split"


def measure(run: Run, images: ImageSet) -> list[dict]:
    """Records of a set of samples: adherence, fd_judge, diversity, grain.

    `fd_judge` is a Fréchet distance to the train split in the judge's features. It is no FID and cannot be compared with one.
    Several processes read a share of the images each.
    """
    asked = {k: images.facts[k] for k in ("guidance", "prompt", "sampler", "steps", "weights", "seed", "n")}
    known = {**asked, "seconds_per_image": images.facts["seconds_per_image"]}
    stage = ("measure", {"folder": images.folder.name})
    return _found_or_made(run, images.name, asked, stage, lambda: _records(run, images.images, images.labels, known))


def measure_stored(run: Run, folder: str) -> list[dict]:
    """`measure` of the set in `samples/<folder>`."""
    return measure(run, stored(run.path / "samples" / folder))


def measure_real(run: Run) -> list[dict]:
    """The same records of the test split, which no model has seen: what a perfect model would reach."""
    known = dict.fromkeys(("guidance", "prompt", "sampler", "steps", "weights", "seed", "seconds_per_image"))
    samples = run.params.evaluate.samples

    def make():
        test = load(run.params.data).test
        return _records(run, test.images, test.labels, known | {"n": len(test)})

    return _found_or_made(run, REAL, {"real": True, "samples": samples}, ("measure_real", {}), make)


def _found_or_made(run: Run, name: str, asked: dict, stage: tuple[str, dict], make) -> list[dict]:
    key = digest([name, asked, run.params.evaluate.bootstrap])
    if found := run.metrics(key=key):
        return found
    run.needs(f"the measurement of {name}")
    if pool.wanted(run.params):
        pool.do(run, stage[0], **stage[1])
        return run.metrics(key=key)
    with owned(run.path):
        found = [r | {"set": name, "key": key} for r in make()]
        if world().is_main_process:
            run.add_metrics(found)
    barrier()
    return found


def _records(run: Run, images: torch.Tensor, labels: torch.Tensor, known: dict) -> list[dict]:
    data, again = load(run.params.data), run.params.evaluate.bootstrap
    read, features = _read(run.params.data, images)
    features, reference = features.numpy(), _reference(run.params.data)
    if not world().is_main_process:
        return []
    reader = judge(run.params.data)
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
    return _read(data, load(data).train.images)[1].numpy()


def _read(data: Data, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The judge's classes (N,) and features (N, 64): every process reads its share, every one gets all."""
    with main_first():  # it trains the judge where there is none; the others find it
        reader = judge(data)
    return tuple(gathered(x) for x in reader.read(images[share(len(images))]))


def _record(metric: str, value: Interval, method: str, extractor: str, reference: str | None, known: dict) -> dict:
    low, high = (float(np.round(x, 6)) for x in value[1:])
    body = {"metric": metric, "value": float(np.round(value[0], 6)), "low": low, "high": high, "interval": method}
    return body | known | {"extractor": extractor, "reference": reference}


def judge_record(run: Run) -> dict:
    """How well the judge itself reads the test split: the record `adherence` of the real images."""
    return next(r for r in measure_real(run) if r["metric"] == "adherence")

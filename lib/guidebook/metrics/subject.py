"""What is measured: samples, or real images in their place, each with its caption and its features."""

import functools
from dataclasses import dataclass

import torch

from guidebook.conditioning.captions import NULL, attribute_caption, class_captions
from guidebook.config.datasets import CATALOG
from guidebook.config.params import Data
from guidebook.data.images import Split, load
from guidebook.metrics.frechet import Gaussian, gaussian
from guidebook.metrics.intervals import Interval
from guidebook.metrics.judge import judge
from guidebook.metrics.networks import Inception, Network
from guidebook.metrics.records import REAL, fields, record
from guidebook.runs.run import Run
from guidebook.runtime.rng import generator
from guidebook.sampling.sets import ImageSet

SPACES = {"judge": judge, "inception": lambda data: Inception()}  # feature spaces of distances between sets


@dataclass(frozen=True)
class Subject:
    name: str  # for the `set` field of records
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64
    order: torch.Tensor  # (N,) indices: where fewer than N are measured, the first of these
    known: dict  # fields of its records

    def record(
        self, metric: str, value: Interval, method: str, extractor: Network | str, reference: str | None = None, **more
    ) -> dict:
        """A metric record: of all images, unless `more` says of how many (`n`)."""
        return record(metric, value, method, extractor, reference, {**self.known, "n": len(self.images), **more})


def of_samples(images: ImageSet) -> Subject:
    """A set of samples, in the order they were drawn: every class as often."""
    return Subject(images.name, images.images, images.labels, torch.arange(len(images.images)), fields(images.facts))


def of_real(run: Run, split: str) -> Subject:
    """A split of the real images; its part is taken from a fixed shuffle."""
    real: Split = getattr(load(run.params.data), split)
    return Subject(f"{split} split", real.images, real.labels, shuffle(len(real)), REAL)


def shuffle(n: int) -> torch.Tensor:
    """The fixed order in which n real images are taken."""
    return torch.randperm(n, generator=generator("real images", n))


def rows(run: Run, subject: Subject, space: str) -> dict[str, torch.Tensor]:
    """What the network of a space reads in the subject, each (N, …), in the subject's order."""
    read = SPACES[space](run.params.data).features(subject.images)
    return {name: x[subject.order] for name, x in read.items()}


def real_rows(run: Run, split: str, space: str, n: int) -> torch.Tensor:
    """Features of the first n real images of the fixed shuffle, (n, D)."""
    return rows(run, of_real(run, split), space)["features"][:n]


@functools.lru_cache(maxsize=2)
def reference(data: Data, network: Network) -> Gaussian:
    """The Gaussian of the whole train split in a feature space."""
    return gaussian(network.features(load(data).train.images)["features"])


def captions(run: Run, subject: Subject) -> list[str] | None:
    """The caption each image was asked to show; None where it was asked for nothing."""
    if (prompt := subject.known["prompt"]) is not None:
        return None if prompt == NULL else [prompt] * len(subject.images)
    labels, seed = subject.labels.tolist(), run.params.sample.seed
    if CATALOG[run.params.data.name].attributes:
        return [attribute_caption(a, seed, i, 0) for i, a in enumerate(labels)]
    every = class_captions(run.params.data.caption, load(run.params.data).classes)
    return [every[i] for i in labels]

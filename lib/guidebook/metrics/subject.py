"""What is measured, and the shape of what is said about it: images with their captions on one side, metric records on the other."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.conditioning.captions import NULL, caption_of
from guidebook.config.params import Data
from guidebook.data.images import Split, load
from guidebook.metrics.distances import Gaussian, gaussian
from guidebook.metrics.features import features
from guidebook.metrics.intervals import Interval
from guidebook.metrics.networks import Inception, JudgeNetwork, Network
from guidebook.runs.run import Run
from guidebook.runtime.rng import generator
from guidebook.sampling.sets import ImageSet

SPACES = {"judge": JudgeNetwork, "inception": lambda data: Inception()}  # feature spaces of distances between sets


@dataclass(frozen=True)
class Subject:
    """Samples, or real images in their place."""

    name: str  # for the `set` field of records
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64
    order: torch.Tensor  # (N,) indices: where fewer than N are measured, the first of these
    known: dict  # fields of its records: `drawn` or `undrawn`

    @property
    def prompt(self) -> str | None:
        """The one prompt of all images; None where each has the caption of its label."""
        return (self.known["draw"] or {}).get("prompt")


def of_samples(images: ImageSet) -> Subject:
    """A set of samples, in the order they were drawn: every class as often."""
    known = drawn(images) | {"seconds_per_image": images.facts["seconds_per_image"]}
    return Subject(images.name, images.images, images.labels, torch.arange(len(images.images)), known)


def of_real(run: Run, split: str) -> Subject:
    """A split of the real images; its part is taken from a fixed shuffle."""
    real: Split = getattr(load(run.params.data), split)
    return Subject(f"{split} split", real.images, real.labels, shuffle(len(real)), undrawn(len(real)))


def drawn(images: ImageSet) -> dict:
    """Fields of the records of samples: the scale w of their guidance, their number, and all of their `Draw`."""
    return {
        "guidance": images.draw.guidance.w,
        "n": images.facts["n"],
        "draw": images.draw.json,
        "seconds_per_image": None,
    }


def undrawn(n: int) -> dict:
    """The same fields of n images that no network drew."""
    return {"guidance": None, "n": n, "draw": None, "seconds_per_image": None}


def shuffle(n: int) -> torch.Tensor:
    """The fixed order in which n real images are taken."""
    return torch.randperm(n, generator=generator("real images", n))


def rows(run: Run, subject: Subject, space: str) -> dict[str, torch.Tensor]:
    """What the network of a space reads in the subject, each (N, …), in the subject's order."""
    read = features(subject.images, SPACES[space](run.params.data))
    return {name: x[subject.order] for name, x in read.items()}


def real_rows(run: Run, split: str, space: str, n: int) -> torch.Tensor:
    """Features of the first n real images of the fixed shuffle, (n, D)."""
    return _real_rows(run.params.data, split, space, SPACES[space](run.params.data).name, n)


def reference(run: Run, space: str) -> Gaussian:
    """The Gaussian of the whole train split in a feature space."""
    return _reference(run.params.data, space, SPACES[space](run.params.data).name)


@functools.lru_cache(maxsize=4)
def _real_rows(data: Data, split: str, space: str, network: str, n: int) -> torch.Tensor:
    images = getattr(load(data), split).images
    return features(images, SPACES[space](data))["features"][shuffle(len(images))[:n]]


@functools.lru_cache(maxsize=2)
def _reference(data: Data, space: str, network: str) -> Gaussian:
    return gaussian(features(load(data).train.images, SPACES[space](data))["features"])


def captions(run: Run, subject: Subject) -> list[str] | None:
    """The caption each image was asked to show; None where it was asked for nothing."""
    if (prompt := subject.prompt) is not None:
        return None if prompt == NULL else [prompt] * len(subject.images)
    return [caption_of(run.params, label, i) for i, label in enumerate(subject.labels.tolist())]


def record(
    metric: str,
    value: Interval,
    method: str,  # how the interval was found
    network: Network | str,  # what the images were read by
    against: str | None,
    known: dict,
) -> dict:
    """A metric record."""
    middle, low, high = (float(np.round(x, 6)) for x in value)
    body = {"metric": metric, "value": middle, "low": low, "high": high, "interval": method}
    extractor = network.name if isinstance(network, Network) else network
    return body | known | {"extractor": extractor, "reference": against}

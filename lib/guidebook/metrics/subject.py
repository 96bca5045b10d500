"""What is measured: samples, or real images in their place, each with its caption and its features."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from guidebook.conditioning.captions import NULL, caption_of
from guidebook.config.params import Data
from guidebook.data.images import Split, load
from guidebook.metrics.frechet import Gaussian, gaussian
from guidebook.metrics.intervals import Interval
from guidebook.metrics.judge import judge
from guidebook.metrics.networks import NETWORKS, Network
from guidebook.runs.run import Run
from guidebook.runtime.seeds import generator
from guidebook.sampling.sets import ImageSet

REAL = {"guidance": None, "draw": None, "seconds_per_image": None}  # fields of records of images that no network drew
# Feature spaces of distances between sets, and the name of a Fréchet distance in each
SPACES = {"judge": judge, "inception": lambda data: NETWORKS["inception"]}
FRECHET = {"judge": "fd_judge", "inception": "fid"}


@dataclass
class Subject:
    """Samples, or real images in their place; loaded, or made, when they are first used."""

    name: str  # for the `set` field of records
    load: Callable[[], Split | ImageSet]
    known: dict = field(default_factory=REAL.copy)  # fields of its records
    shuffled: bool = False  # whether a part of them is taken from a fixed shuffle, else the first ones

    @functools.cached_property
    def images(self) -> torch.Tensor:
        return self.load().images

    @property
    def labels(self) -> torch.Tensor:
        return self.load().labels

    @property
    def prompt(self) -> str | None:
        """The one prompt of all images; None where each has the caption of its label."""
        return (self.known["draw"] or {}).get("prompt")

    @functools.cached_property
    def order(self) -> torch.Tensor:
        """(N,) indices: where fewer than N are measured, the first of these."""
        n = len(self.images)
        return torch.randperm(n, generator=generator("real images", n)) if self.shuffled else torch.arange(n)

    def record(self, metric: str, value: Interval, method: str, reader: Network | str, reference=None, **more) -> dict:
        """A record: `method` made the interval, `reader` read the images; `more` has `n` where not all were measured."""
        middle, low, high = (round(float(x), 6) for x in value)
        body = {"metric": metric, "value": middle, "low": low, "high": high, "interval": method, "n": len(self.images)}
        name = reader if isinstance(reader, str) else reader.name
        return body | self.known | more | {"extractor": name, "reference": reference}


def of_samples(images: ImageSet) -> Subject:
    """A set of samples, in the order they were drawn: every class as often."""
    known = {"guidance": images.draw.guidance.w, "draw": images.draw.json}
    known |= {key: images.facts[key] for key in ("seconds_per_image", "n")}
    return Subject(images.name, lambda: images, known)


def of_real(run: Run, split: str) -> Subject:
    """A split of the real images; its part is taken from a fixed shuffle."""
    return Subject(f"{split} split", lambda: getattr(load(run.params.data), split), shuffled=True)


def rows(run: Run, subject: Subject, space: str) -> dict[str, torch.Tensor]:
    """Outputs of the network of a space for the subject, each (N, …), in the subject's order."""
    read = SPACES[space](run.params.data).features(subject.images)
    return {name: x[subject.order] for name, x in read.items()}


@functools.lru_cache(maxsize=2)
def reference(data: Data, network: Network) -> Gaussian:
    """The Gaussian of the train split in a feature space."""
    return gaussian(network.features(load(data).train.images)["features"])


def captions(run: Run, subject: Subject) -> list[str] | None:
    """The caption of each image; None where it was drawn without one."""
    if subject.prompt is not None:
        return None if subject.prompt == NULL else [subject.prompt] * len(subject.images)
    return [caption_of(run.params, label, i) for i, label in enumerate(subject.labels.tolist())]

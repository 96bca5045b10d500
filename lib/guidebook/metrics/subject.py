"""Images that are measured: samples, or real images in their place, each with its caption and its features."""

import base64
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.conditioning.captions import NULL, caption_of, label_of
from guidebook.metrics.intervals import Interval
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Subject:
    """Samples, or real images in their place; loaded, or made, when they are first used."""

    name: str  # for the `set` field of records
    load: Callable[[], Any]  # a set or a split: what has images and labels
    # Fields of its records, these of images that no network drew
    known: dict = field(default_factory=lambda: {"guidance": None, "draw": None})
    # That drawing an image took: no part of a record, which is the same whenever it is made
    seconds: float | None = None
    shuffled: bool = False  # whether a part of them is taken from a fixed shuffle, else the first ones
    label: int | None = None  # of all images, drawn of one prompt: its class, -1 where it is no class's caption

    @functools.cached_property
    def images(self) -> "Tensor":
        return self.load().images

    @property
    def labels(self) -> "Tensor":
        found = self.load().labels
        return found if self.label is None else found * 0 + self.label

    @property
    def prompt(self) -> str | None:
        """The one prompt of all images; None where each has the caption of its label."""
        return (self.known["draw"] or {}).get("prompt")

    @functools.cached_property
    def order(self) -> "Tensor":
        """(N,) indices: where fewer than N are measured, the first of these."""
        import torch

        from guidebook.runtime.seeds import generator

        n = len(self.images)
        return torch.randperm(n, generator=generator("real images", n)) if self.shuffled else torch.arange(n)

    def classes(self, n: int) -> np.ndarray | None:
        """The classes (n,) of the first samples, as every class is drawn as often; None of real images, which are drawn as they come."""
        return self.labels[self.order[:n]].numpy() if self.known["draw"] else None

    def record(self, metric: str, value: Interval, method: str, reader, reference: str | None = None, **more) -> dict:
        """A record: `method` made the interval, `reader`, a network or its name, read the images; `more` has `n` where not all were measured."""
        middle, low, high = (round(float(x), 6) for x in value)
        body = {"metric": metric, "value": middle, "low": low, "high": high, "interval": method, "n": len(self.images)}
        name = reader if isinstance(reader, str) else reader.name
        each = {} if value.each is None or self.known["draw"] is None else {"influence": packed(value.each)}
        return body | self.known | more | {"extractor": name, "reference": reference} | each


def packed(influence: np.ndarray) -> dict:
    """JSON of influences (n,): 16-bit floats in base64, and their scale. `difference.influence` reads it."""
    scale = float(np.abs(influence).max()) or 1.0
    return {"scale": scale, "f16": base64.b64encode((influence / scale).astype("<f2").tobytes()).decode()}


def of_samples(run: Run, images: ImageSet) -> Subject:
    """A set of samples, in the order they were drawn: every class as often, or all of the class of their prompt."""
    known = {"guidance": images.draw.guidance.w, "draw": images.draw.json, "n": images.facts["n"]}
    prompt, seconds = images.draw.prompt, images.facts["seconds_per_image"]
    label = None if prompt is None else label_of(run.params, prompt)
    return Subject(images.name, lambda: images, known, seconds=seconds, label=label)


def of_real(run: Run, split: str) -> Subject:
    """A split of the real images; its part is taken from a fixed shuffle."""
    images = functools.partial(resolve_name, "guidebook.data.images:load")  # imports torch: a record is read without
    return Subject(f"{split} split", lambda: getattr(images()(run.params.data), split), shuffled=True)


def captions(run: Run, subject: Subject) -> list[str] | None:
    """The caption of each image; None where it was drawn without one."""
    if subject.prompt is not None:
        return None if subject.prompt == NULL else [subject.prompt] * len(subject.images)
    return [caption_of(run.params, label, i) for i, label in enumerate(subject.labels.tolist())]

"""What samples are asked to show: image i a class, in turn, or the attributes of a face that no training has seen."""

import torch

from guidebook.conditioning.captions import NULL, attribute_caption, class_captions
from guidebook.conditioning.encoders import encode
from guidebook.config.datasets import CATALOG
from guidebook.config.params import Params
from guidebook.data.images import load
from guidebook.runtime.distributed import world


class Asked:
    """The labels and captions of a run's samples, by their numbers."""

    def __init__(self, params: Params):
        self.params, self._entry = params, CATALOG[params.data.name]
        if self._entry.attributes:
            self._known, self._tests = [], load(params.data).test.labels
        else:
            self._known = class_captions(params.data.caption, self._entry.classes)
        # The known captions go along with every other, so that the stand-in encoder always builds the same vocabulary.
        self._told = encode(params.text, [*self._known, NULL]).to(world().device)  # (classes + 1, L, D)

    def labels(self, index: torch.Tensor) -> list[int]:
        """Class indices of the images number `index` (B,), or attributes as bits."""
        if self._entry.attributes:
            return self._tests[index % len(self._tests)].tolist()
        return (index % len(self._known)).tolist()

    def captions(self, index: torch.Tensor) -> list[str]:
        """What each of the images number `index` (B,) is asked to show."""
        labels = self.labels(index)
        if not self._entry.attributes:
            return [self._known[label] for label in labels]
        return [
            attribute_caption(a, self.params.sample.seed, i, 0) for a, i in zip(labels, index.tolist(), strict=True)
        ]

    def embeddings(self, index: torch.Tensor, prompt: str | list[str] | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, D) of the captions of the images number `index`, or of `prompt` for all or each, and of the null caption."""
        uncond = self._told[-1].expand(len(index), -1, -1)
        if prompt is not None:
            told = [prompt] if isinstance(prompt, str) else prompt
            cond = encode(self.params.text, [*told, NULL, *self._known])[: len(told)].to(world().device)
            return cond.expand(len(index), -1, -1), uncond
        if self._entry.attributes:
            return encode(self.params.text, self.captions(index), world().device), uncond
        return self._told[self.labels(index)], uncond

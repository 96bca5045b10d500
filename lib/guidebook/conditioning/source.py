"""The source of conditions: what training and sampling alike give the denoiser for (labels, index, epoch)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from guidebook.conditioning.captions import NULL, caption_of, class_captions
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import encode, width
from guidebook.config.datasets import DataError
from guidebook.config.params import Params
from guidebook.config.paths import runs
from guidebook.config.schema import same
from guidebook.data.images import load
from guidebook.runs.artifact import Parts, arrays, artifact
from guidebook.runtime.distributed import world

PART = 512  # captions encoded at a time


def conditions(params: Params, labels: Tensor | None = None) -> "Conditions":
    """The source of a run. With `data.phrasings`, training gives the `labels` (N,) of its images: their captions are encoded now.

    Raises Preempted, and OSError where the disk is full.
    """
    kept = kept_captions(params, labels) if labels is not None and params.data.phrasings else None
    return Conditions(params, kept)


def sample_labels(params: Params, index: Tensor) -> Tensor:
    """Labels (B,) of samples number `index` (B,): the classes in turn, or the attributes of test images in turn."""
    entry = params.data.entry
    if entry.attributes:
        tests = load(params.data).test.labels
        return tests[index % len(tests)]
    return index % len(entry.classes)


class Conditions:
    """Class captions are encoded once, those of single images read from `kept` or encoded when they are asked for.

    Raises DataError where two classes have one embedding: `text.tokens` cuts their captions to the same words.
    """

    def __init__(self, params: Params, kept: Tensor | None):
        entry, self.params, self._kept = params.data.entry, params, kept
        known = [] if entry.attributes else class_captions(params.data.caption, entry.classes)
        table = self._encoded([*known, NULL])
        if not entry.captioned and (alike := same(row.tobytes() for row in table[:-1].cpu().numpy())):
            one, other = (known[i][:80] for i in alike)
            cut = f"text.tokens = {params.text.tokens} cuts {one!r} and {other!r} to the same words"
            raise DataError(f"{cut}, so that the model cannot tell them apart")
        self._classes, self.null = table[:-1], self._of(table[-1:])  # (K, L, D) or (K, L + 1, D), and one row

    def __call__(self, labels: Tensor, index: Tensor, epoch: Tensor | None = None) -> Condition:
        """Of images with `labels` (B,), number `index` (B,): samples, or training images in an `epoch` (B,); all on the CPU."""
        if epoch is not None and self._kept is not None:
            phrasings = self.params.data.phrasings
            rows = len(self._kept) // phrasings * (epoch % phrasings) + index
            return self._of(self._kept[rows].to(world().device).float())
        if len(self._classes) and (not self.params.data.entry.captioned or labels.max() < len(self._classes)):
            return self._of(self._classes[labels.to(self._classes.device, non_blocking=True)])
        epochs = [None] * len(index) if epoch is None else epoch.tolist()
        asked = zip(labels.tolist(), index.tolist(), epochs, strict=True)
        return self.prompts([caption_of(self.params, *image) for image in asked])

    def prompts(self, captions: Sequence[str]) -> Condition:
        """Of captions of one's own, one per image."""
        return self._of(self._encoded(captions))

    def _encoded(self, captions: Sequence[str]) -> Tensor:
        return encode(self.params.text, captions, world().device, self.params.model.pooled)

    def _of(self, rows: Tensor) -> Condition:
        tokens = self.params.text.tokens
        return Condition(rows[:, :tokens], pooled=rows[:, tokens] if self.params.model.pooled else None)


def kept_captions(params: Params, labels: Tensor) -> Tensor:
    """Embeddings of the captions of N training images, epoch by epoch: (phrasings · N, L, D), or with the pooled text
    (phrasings · N, L + 1, D), float16, memory-mapped."""
    n, text, phrasings, labels = len(labels), params.text, params.data.phrasings, labels.tolist()
    pooled = params.model.pooled

    def make(first: int, end: int):
        captions = [caption_of(params, labels[row % n], row % n, row // n) for row in range(first, end)]
        return {"embeddings": encode(text, captions, world().device, pooled).half().cpu().numpy()}, []

    cuts, shape = [*range(0, n * phrasings, PART), n * phrasings], (text.tokens + pooled, width(text))
    name, spec = f"captions-{params.data.name}", [text, params.train.seed, labels, phrasings]
    spec += [
        x for x in (params.data.caption, params.data.contents, pooled) if x
    ]  # what a label stands for is among the contents
    parts = Parts(cuts, {"embeddings": (shape, "float16")})
    folder = artifact(runs() / "data", name, spec, make, parts, "encoding captions")
    return torch.from_numpy(arrays(folder)["embeddings"])

"""What a training step tells the model of its images: embeddings of captions, some of them replaced by the null caption's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from guidebook.conditioning.captions import NULL, attribute_caption, class_captions
from guidebook.conditioning.encoders import WIDTH, encode
from guidebook.config.datasets import CATALOG
from guidebook.config.params import Params, digest
from guidebook.config.paths import runs
from guidebook.data.images import Images, Streamed, order
from guidebook.runs.arrays import built
from guidebook.runtime.distributed import world

PART = 512  # captions encoded at a time


def conditions(params: Params, data: Images | Streamed) -> "OfClasses | Kept | Fresh":
    """What is told of a run's training images."""
    if not CATALOG[params.data.name].attributes:
        return OfClasses(params)
    return (Kept if params.data.phrasings else Fresh)(params, data.train.labels)


class OfClasses:
    """One caption per class: their embeddings lie on the device."""

    def __init__(self, params: Params):
        captions = [*class_captions(params.data.caption, CATALOG[params.data.name].classes), NULL]
        # (classes + 1, L, D), the null caption's last
        self.embeddings = encode(params.text, captions).to(world().device)

    def rows(self, nimg: int, labels: torch.Tensor) -> torch.Tensor:
        """Which caption each image of this process's share of the batch after `nimg` images has, (b,)."""
        return labels

    def embedded(self, rows: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, L, D) on the device; where `dropped` (b,), of the null caption."""
        return self.embeddings[torch.where(dropped, len(self.embeddings) - 1, rows)]


class _OfAttributes(ABC):
    """A caption per image and epoch; N images have the captions N · phrasing + image. They are numbered on the CPU."""

    def __init__(self, params: Params, labels: torch.Tensor):
        self.params, self.labels = params, labels.tolist()
        self.null = encode(params.text, [NULL])[0].to(world().device)  # (L, D)

    def rows(self, nimg: int, labels: torch.Tensor) -> torch.Tensor:
        """As `OfClasses.rows`, on the CPU."""
        t, n, every = self.params.train, len(self.labels), self.params.data.phrasings
        epoch = torch.arange(nimg, nimg + t.batch) // n
        rows = n * (epoch % every if every else epoch) + order(n, t.seed, nimg, t.batch)
        return rows[world().process_index :: world().num_processes]

    def embedded(self, rows: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """As `OfClasses.embedded`."""
        return torch.where(dropped[:, None, None], self.null, self._embeddings(rows))

    def _captions(self, rows: Sequence[int]) -> list[str]:
        n, seed = len(self.labels), self.params.train.seed
        return [attribute_caption(self.labels[row % n], seed, row % n, row // n) for row in rows]

    @abstractmethod
    def _embeddings(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of the captions of `rows` (B,): (B, L, D) float32 on the device."""


class Kept(_OfAttributes):
    """The captions of `data.phrasings` epochs, which then repeat: encoded once and memory-mapped, in half precision."""

    def __init__(self, params: Params, labels: torch.Tensor):
        super().__init__(params, labels)
        n, text = len(labels) * params.data.phrasings, params.text
        key = digest([1, text.model_dump(), params.train.seed, self.labels, params.data.phrasings])

        def make(first: int, end: int):
            embeddings = encode(text, self._captions(range(first, end)), world().device)
            return {"embeddings": embeddings.half().cpu().numpy()}, []

        place, shapes = (
            runs() / "data" / f"captions-{params.data.name}-{key}",
            {"embeddings": ((text.tokens, WIDTH), "float16")},
        )
        found = built(place, [*range(0, n, PART), n], shapes, make, "encoding captions")
        self.kept = torch.from_numpy(found["embeddings"])  # (n, L, D)

    def _embeddings(self, rows):
        return self.kept[rows].to(self.null.device).float()


class Fresh(_OfAttributes):
    """New words in every epoch, encoded in the step, on the device."""

    def _embeddings(self, rows):
        return encode(self.params.text, self._captions(rows.tolist()), self.null.device)

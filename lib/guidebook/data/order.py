"""The order in which a training sees its images: a permutation an epoch, a function of (seed, epoch) alone."""

import functools
from collections.abc import Callable

import torch

from guidebook.runtime.seeds import generator


@functools.lru_cache(maxsize=2)
def shuffled(n: int, seed: int, epoch: int) -> torch.Tensor:
    """An epoch's random order (n,)."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


Order = Callable[[int, int, int], torch.Tensor]  # (n, seed, epoch) → a permutation (n,)


def order(n: int, seed: int, start: int, count: int, epoch_order: Order = shuffled) -> torch.Tensor:
    """Indices (count,) of the samples seen as number `start` … `start + count - 1`.

    Every epoch is a permutation of all `n` samples, a function of (seed, epoch) alone; a batch may span two epochs.
    """
    first, last = start // n, (start + count - 1) // n
    stream = torch.cat([epoch_order(n, seed, epoch) for epoch in range(first, last + 1)])
    return stream[start - first * n :][:count]


def in_files(labels: torch.Tensor, rows: int) -> Order:
    """File order: images sorted by their labels (n,) and cut into files of `rows`; an epoch shuffles the files, and the images of each."""
    files = torch.argsort(labels, stable=True).split(rows)

    @functools.lru_cache(maxsize=2)
    def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
        rng = generator(seed, "files", epoch)
        turns = [files[k] for k in torch.randperm(len(files), generator=rng)]
        return torch.cat([file[torch.randperm(len(file), generator=rng)] for file in turns])

    return epoch_order

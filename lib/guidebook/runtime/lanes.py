"""Lanes of a CPU: threads that each take a part of a batch through the whole network, and meet once.

Threads that share every operation wait for each other at its end, some thousand times a step; where another process holds a core
for a moment, all of them wait for the one that lost it.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch
from torch import Tensor

from guidebook.runtime.distributed import world

MOST = 4  # what is Python of a network runs in one lane at a time, so many lanes would wait for each other again
T = TypeVar("T")


class Lanes:
    """Lanes for batches of so many rows: one on a GPU, on a CPU a divisor of the number of threads. While it is entered, all that runs
    outside of them has one lane's threads too.
    """

    def __init__(self, rows: int):
        self._threads = torch.get_num_threads() if world().device.type == "cpu" else 1
        self.n = max(n for n in range(1, MOST + 1) if self._threads % n == 0 and n <= max(rows, 1))

    def __enter__(self) -> Self:
        if self.n > 1:
            torch.set_num_threads(self._threads // self.n)
        return self

    def __exit__(self, *error: object) -> None:
        if self.n > 1:
            torch.set_num_threads(self._threads)

    def map(self, f: Callable[[slice], T], rows: int) -> list[T]:
        """f of consecutive parts of so many rows, one a lane, in order. Numbers are rounded by the parts, not by what else is busy."""
        n, grad = min(self.n, rows), torch.is_grad_enabled()
        if n <= 1:
            return [f(slice(0, rows))]

        def part(i: int) -> T:
            with torch.set_grad_enabled(grad):
                return f(slice(rows * i // n, rows * (i + 1) // n))

        return list(_pool(self.n, self._threads // self.n, os.getpid()).map(part, range(n)))

    def backward(self, losses: Callable[..., Tensor], inputs: Sequence, weights: Sequence[Tensor], n: int) -> Tensor:
        """The loss of each row of the inputs; the gradient of their sum / n is added to the weights', a lane's after the other's."""

        def gradient(rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            each = losses(*(x[rows] for x in inputs))
            return each.detach(), torch.autograd.grad(each.sum() / n, weights, materialize_grads=True)

        each, gradients = zip(*self.map(gradient, len(inputs[0])), strict=True)
        for w in weights:
            w.grad = torch.zeros_like(w) if w.grad is None else w.grad
        for of_lane in gradients:
            torch._foreach_add_([w.grad for w in weights], list(of_lane))
        return torch.cat(each)


@functools.cache
def _pool(n: int, threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "lane", torch.set_num_threads, (threads,))

"""Exponential moving average of weights."""

from collections.abc import Iterable, Sequence

import torch

from guidebook.config.errors import ParamsError


# θ̄ ← d_k θ̄ + (1 − d_k) θ   with   d_k = decay,  or with a warm-up  d_0 = 0,  d_k = min(decay, (1 + k) / (10 + k))
class EMA:
    """An averaged copy of a model's weights. With `warmup` the first updates forget faster than `decay`, and the first forgets all.

    Keys are those of `state_dict()`; the update is one fused kernel over all weights.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]], decay: float, warmup: bool = True):
        self.name, self.decay, self.warmup, self.updates = f"ema-{decay}", decay, warmup, 0
        self.weights = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[torch.Tensor]) -> None:
        """Moves the average towards the weights, given in the order they were in at the start."""
        decay, self.updates = decay_at(self.updates, self.decay, self.warmup), self.updates + 1
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in parameters], 1 - decay)


def decay_at(k: int, decay: float, warmup: bool) -> float:
    """d_k of update number k, the first being 0. With the warm-up a decay d is not reached before update (10 d − 1) / (1 − d)."""
    if not warmup:
        return decay
    return min(decay, (1 + k) / (10 + k)) if k else 0.0


def averages(
    parameters: list[tuple[str, torch.Tensor]], decays: Sequence[float], warmup: bool, updates: int
) -> list[EMA]:
    """An average for each decay. Raises ParamsError for two that are one and the same all through so many updates."""
    last = [decay_at(updates - 1, d, warmup) for d in decays]
    if same := [d for d, reached in zip(decays, last, strict=True) if last.count(reached) > 1]:
        early = f"by its warm-up the decay is at most {max(last):.6g} after {updates:,} updates; leave all but one out"
        why = (
            f"{early}, train for longer, or set train.ema_warmup=false"
            if len(set(same)) > 1
            else "leave all but one out"
        )
        raise ParamsError(f"train.ema = {same} are one average: {why}")
    return [EMA(parameters, d, warmup) for d in decays]

"""Exponential and power-function moving averages of weights."""

from collections.abc import Iterable, Sequence

import torch

from guidebook.config.errors import ParamsError
from guidebook.config.schema import length_of, track_name
from guidebook.training.power import exponent

Track = float | str  # a decay, or `power:LENGTH`


# θ̄ ← d_k θ̄ + (1 − d_k) θ   with   d_k = decay,  or with a warm-up  d_0 = 0,  d_k = min(decay, (1 + k) / (10 + k)),
# or of a power function  d_k = (k / (k + 1))^(γ + 1),  by which θ̄(t) = (γ + 1) / t^(γ + 1) ∫₀ᵗ τ^γ θ(τ) dτ   (Karras et al. 2024, eq. 1 and 2)
class EMA:
    """An averaged copy of a model's weights. With `warmup` the first updates forget faster than the decay, and the first forgets all.

    Keys are those of `state_dict()`; the weights are parts of one vector, so that an update is one operation.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]], track: Track, warmup: bool = True):
        self.name, self.track, self.warmup, self.updates = track_name(track), track, warmup, 0
        names, own = zip(*parameters, strict=True)
        self._vector, parts = as_vector(own)
        self.weights = dict(zip(names, parts, strict=True))

    def update(self, weights: torch.Tensor) -> None:
        """Moves the average towards the weights: the vector of those that it began with, as they are now."""
        decay, self.updates = decay_at(self.updates, self.track, self.warmup), self.updates + 1
        self._vector.lerp_(weights, 1 - decay)


@torch.no_grad()
def as_vector(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A copy of dense tensors as one vector, and its parts with their shapes and memory layouts, 64 bytes or a multiple from its start.

    A network has hundreds of small ones, and a CPU takes longer to reach them one by one than to average their numbers.
    """
    sizes = [-(-p.numel() // 16) * 16 for p in tensors]
    vector = tensors[0].new_zeros(sum(sizes))
    parts = [x.as_strided(p.shape, p.stride()) for x, p in zip(vector.split(sizes), tensors, strict=True)]
    for part, p in zip(parts, tensors, strict=True):
        part.copy_(p)
    return vector, parts


def decay_at(k: int, track: Track, warmup: bool) -> float:
    """d_k of update number k, the first being 0. With the warm-up a decay d is not reached before update (10 d − 1) / (1 − d)."""
    if isinstance(track, str):
        return (k / (k + 1)) ** (exponent(length_of(track)) + 1)
    if not warmup:
        return track
    return min(track, (1 + k) / (10 + k)) if k else 0.0


def averages(
    parameters: list[tuple[str, torch.Tensor]], tracks: Sequence[Track], warmup: bool, updates: int
) -> list[EMA]:
    """An average for each track. Raises ParamsError for two that are one and the same all through so many updates."""
    last = [decay_at(updates - 1, d, warmup) for d in tracks]
    if same := [d for d, reached in zip(tracks, last, strict=True) if last.count(reached) > 1]:
        early = f"by its warm-up the decay is at most {max(last):.6g} after {updates:,} updates; leave all but one out"
        why = (
            f"{early}, train for longer, or set train.ema_warmup=false"
            if len(set(same)) > 1
            else "leave all but one out"
        )
        raise ParamsError(f"train.ema = {same} are one average: {why}")
    return [EMA(parameters, d, warmup) for d in tracks]

"""Exponential moving average of weights."""

from collections.abc import Iterable

import torch


# θ̄ ← d_k θ̄ + (1 − d_k) θ   with   d_0 = 0,  d_k = min(decay, (1 + k) / (10 + k))
class EMA:
    """An averaged copy of a model's weights, with the usual warm-up: the first updates forget faster than `decay`.

    Keys are those of `state_dict()`; the update is one fused kernel over all weights.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]], decay: float):
        self.name, self.decay, self.updates = f"ema-{decay}", decay, 0
        self.weights = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[torch.Tensor]) -> None:
        """Moves the average towards the weights, given in the order they were in at the start."""
        k, self.updates = self.updates, self.updates + 1
        decay = min(self.decay, (1 + k) / (10 + k)) if k else 0.0
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in parameters], 1 - decay)

"""Guidance: how a conditional and an unconditional prediction become one.

One convention throughout: w = 1 is off (the conditional prediction), w = 0 is unconditional. Ho & Salimans (2022) write
w − 1 for our w.
"""

from collections.abc import Callable

import torch

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x (B, C, H, W), t) → ε (B, C, H, W)


# ε̃ = ε(x, ∅) + w (ε(x, c) − ε(x, ∅))   (Ho & Salimans 2022, eq. 6, with w for their 1 + w)
def classifier_free(
    model: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],  # (x, t, cond) → ε
    cond: torch.Tensor,  # (B, L, D) embeddings of the captions
    uncond: torch.Tensor,  # (B, L, D) embeddings of the null caption
    w: float,
) -> Denoise:
    """The guided denoiser. Costs one forward per step for w = 1 and w = 0, else one of twice the batch."""
    if w == 1:
        return lambda x, t: model(x, t, cond)
    if w == 0:
        return lambda x, t: model(x, t, uncond)
    both = torch.cat([uncond, cond])

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps_uncond, eps_cond = model(torch.cat([x, x]), t, both).chunk(2)
        return eps_uncond + w * (eps_cond - eps_uncond)

    return guided

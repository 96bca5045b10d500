"""The condition of a denoiser: what it gets of an image besides the noisy image and the time."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Inputs of B images; a backbone reads those that it knows."""

    tokens: Tensor | None = None  # (B, L, D): text, one encoder's or several side by side
    pooled: Tensor | None = None  # (B, P): one vector of the text, added to the time embedding (SDXL, SD3)
    numbers: Tensor | None = None  # (B, K): size, crop, augmentation level
    image: Tensor | None = None  # (B, C, H, W): joined to x along the channels (cascades)

    def cat(self, other: "Condition") -> "Condition":
        """These B images, then the others."""
        return self._map(lambda name, x: torch.cat([x, getattr(other, name)]))

    def __getitem__(self, rows: Tensor | slice | list[int]) -> "Condition":
        return self._map(lambda name, x: x[rows])

    def drop(self, dropped: Tensor, null: "Condition") -> "Condition":
        """The text of `null` (1 or B rows) where `dropped` (B,); what is no text stays. Caption dropout (Ho & Salimans 2022)."""

        def text(name: str, x: Tensor) -> Tensor:
            where = dropped.reshape(-1, *[1] * (x.ndim - 1))
            return torch.where(where, getattr(null, name), x) if name in ("tokens", "pooled") else x

        return self._map(text)

    def _map(self, f: Callable[[str, Tensor], Tensor]) -> "Condition":
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Condition(**{name: None if x is None else f(name, x) for name, x in given.items()})

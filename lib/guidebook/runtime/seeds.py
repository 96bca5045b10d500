"""Seeds for everything random: each a function of what it is for, never of what ran before."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(*what: int | str) -> int:
    """A 63-bit seed from integers and words; the same words give the same seed on every machine."""
    text = "/".join(map(str, what)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*what: int | str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A torch generator on `device`, seeded by `seed_of(*what)`."""
    import torch

    return torch.Generator(device).manual_seed(seed_of(*what))

"""Latents that are encoded once: of each training image the posterior's mean and log-variance, from which a step draws anew.

To draw anew is the same, in distribution, as to encode in each step; to keep one draw would freeze its noise. Mean and log-variance
of a 256×256 image's 4×32×32 latent take 16,384 bytes in half precision.
"""

from pathlib import Path

import torch
from torch import Tensor

from guidebook.config.paths import runs
from guidebook.models.autoencoder import Autoencoder
from guidebook.runs.artifact import Parts, arrays, artifact

PART = 2**22  # pixels of a part


def latents(vae: Autoencoder, images: Tensor, fingerprint: str, flips: bool) -> Tensor:
    """Moments (N, F, 2C, h, w) float16, memory-mapped, of images (N, 3, H, W) uint8: read, or encoded now by all processes together.

    F = 2 with `flips`: the mirrored image has latents of its own. Raises OSError where the disk is full, Preempted.
    """
    return torch.from_numpy(arrays(encoded(vae, images, fingerprint, flips))["moments"])


def encoded(vae, images: Tensor, fingerprint: str, flips: bool, share: tuple[int, int] | None = None) -> Path:
    """The artifact of `latents`. With `share`, (k, n), one of n processes that do not talk: it may not be there yet, see `intact`."""
    n, channels, side = len(images), vae.network.config.latent_channels, images.shape[-1] // vae.factor

    def make(first: int, end: int):
        part = images[first:end]
        ways = [part, part.flip(-1)] if flips else [part]
        return {"moments": torch.stack([vae.encode(x) for x in ways], 1).half().numpy()}, []

    cuts = [*range(0, n, max(1, PART // images.shape[-1] ** 2)), n]
    parts = Parts(cuts, {"moments": ((1 + flips, 2 * channels, side, side), "float16")}, share=share)
    spec = [vae.name, fingerprint, images.shape[-1], flips]
    return artifact(runs() / "data", "latents", spec, make, parts, "encoding latents")

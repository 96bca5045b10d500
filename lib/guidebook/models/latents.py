"""Latents that are encoded once: of each training image the posterior's mean and log-variance, from which a step draws anew.

To draw afresh is the same, in distribution, as to encode in each step; to keep one draw would freeze its noise. The mean and the
log-variance of a 256×256 image's 4×32×32 latent take 16,384 bytes in half precision.
"""

import torch

from guidebook.config.params import digest
from guidebook.config.paths import runs
from guidebook.runs.arrays import Arrays, built
from guidebook.runs.preemption import Stop

PART = 2**22  # pixels of a part


def latents(vae, images: torch.Tensor, fingerprint: str, flips: bool, stop: Stop | None = None) -> torch.Tensor:
    """Moments (N, F, 2C, h, w) float16, memory-mapped, of images (N, 3, H, W) uint8: found, else encoded by all processes of this world.

    `vae` is a `guidebook.models.autoencoder.Autoencoder`. F = 2 with `flips`: the mirrored image has latents of its own. Raises OSError where
    the disk is full, Preempted.
    """
    return torch.from_numpy(encoded(vae, images, fingerprint, flips, stop)["moments"])


def encoded(
    vae,
    images: torch.Tensor,
    fingerprint: str,
    flips: bool,
    stop: Stop | None = None,
    share: tuple[int, int] | None = None,
) -> Arrays | None:
    """The folder behind `latents`. None where `share`, (k, n), is one of n that do not talk, and others are still at work."""
    n, channels, side = len(images), vae.network.config.latent_channels, images.shape[-1] // vae.factor
    key = digest([1, vae.name, fingerprint, images.shape[-1], flips])

    def make(first: int, end: int):
        part = images[first:end]
        ways = [part, part.flip(-1)] if flips else [part]
        return {"moments": torch.stack([vae.encode(x) for x in ways], 1).half().numpy()}, []

    shapes = {"moments": ((1 + flips, 2 * channels, side, side), "float16")}
    cuts = [*range(0, n, max(1, PART // images.shape[-1] ** 2)), n]
    return built(runs() / "data" / f"latents-{key}", cuts, shapes, make, "encoding latents", stop, share)

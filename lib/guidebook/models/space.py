"""The space of diffusion: pixels, or the latents of a frozen autoencoder."""

from dataclasses import dataclass, replace

import torch

from guidebook.config.params import Params
from guidebook.config.pretrained import PretrainedMissing, latent_shape
from guidebook.data.images import Images, Split, Streamed, from_uint8, to_uint8
from guidebook.models.autoencoder import Autoencoder, of_run, posterior
from guidebook.models.latents import latents


def space(params: Params, known: str | None = None) -> "Pixels | Latents":
    """That of a run. Raises PretrainedMissing where it began with another autoencoder (`known`): its latents mean something else."""
    if not params.model.vae:
        return Pixels(params)
    vae = of_run(params)
    if known not in (None, vae.name):
        raise PretrainedMissing(
            f"the run began with the autoencoder {known}, now there is {vae.name}: put the first one back, or "
            "delete the run's folder"
        )
    return Latents(params, vae)


def shape_of(params: Params) -> tuple[int, int, int]:
    """(C, H, W) of what the model learns. Loads nothing."""
    channels, factor = latent_shape(params.model.vae) if params.model.vae else (params.data.entry.channels, 1)
    return channels, params.data.resolution // factor, params.data.resolution // factor


@dataclass(frozen=True)
class Pixels:
    """The images themselves, their values in `data.range`."""

    params: Params
    shape = property(lambda self: shape_of(self.params))

    def learnt(self, data: Images | Streamed) -> Images | Streamed:
        """The data that batches are taken from."""
        return data

    def noise(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """The random numbers of `x0` for n images: none."""
        return torch.empty(n, 0, device=rng.device)

    def x0(self, images: torch.Tensor, mirrored: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_0 (B, *shape) of a part of a batch, those that are `mirrored` (B,) flipped."""
        x0 = self.encoded(images)
        return torch.where(mirrored[:, None, None, None], x0.flip(-1), x0) if self.params.data.flips else x0

    def encoded(self, images: torch.Tensor, rng: torch.Generator | None = None) -> torch.Tensor:
        """x_0 (B, *shape) of images (B, C, H, W) uint8 that no batch holds."""
        return from_uint8(images, *self.params.data.range)

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) uint8, on the CPU, of samples (B, *shape)."""
        return to_uint8(x.cpu(), *self.params.data.range)


@dataclass(frozen=True)
class Latents:
    """A fresh draw of the posterior that the autoencoder gives each image. The same methods as `Pixels`."""

    params: Params
    autoencoder: Autoencoder
    shape = property(lambda self: shape_of(self.params))

    def learnt(self, data: Images | Streamed) -> Images:
        """The moments of the posteriors in the place of the training images: (N, F, 2C, h, w), F = 2 with the mirrored ones."""
        data = data.decoded() if isinstance(data, Streamed) else data
        moments = latents(self.autoencoder, data.train.images, data.fingerprint, self.params.data.flips)
        return replace(data, train=Split(moments, data.train.labels))

    def noise(self, n: int, rng: torch.Generator) -> torch.Tensor:
        return torch.randn(n, *self.shape, generator=rng, device=rng.device)

    def x0(self, moments: torch.Tensor, mirrored: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        which = mirrored.long() if self.params.data.flips else torch.zeros_like(mirrored, dtype=torch.int64)
        return posterior(moments[torch.arange(len(which), device=which.device), which], noise, self.autoencoder.scale)

    def encoded(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moments = self.autoencoder.encode(images).to(images.device)
        return posterior(moments, self.noise(len(images), rng), self.autoencoder.scale)

    def images(self, x: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(x)

"""Frozen autoencoders: images to the latents that a model learns, and back.

`stabilityai/sd-vae-ft-mse` (Rombach et al. 2022), that of a pipeline, or `embedded`: a small one of the same kind with 4 channels, trained on the
run's images; `embedded-8` and `embedded-16` have more.
"""

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guidebook.config.params import Params, origin
from guidebook.config.pretrained import CHANNELS, PRETRAINED, located
from guidebook.config.schema import Data
from guidebook.data.images import from_uint8, load, to_uint8
from guidebook.models import small_vae
from guidebook.runs import manifest
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import exact

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
PART = 2**20  # pixels of the images that go through the network at a time


@dataclass(frozen=True)
class Autoencoder:
    network: "AutoencoderKL"
    name: str  # with the weights' version

    @property
    def scale(self) -> float:
        """The factor of latents, so that its elements have variance 1 or so (Rombach et al. 2022, section D.1)."""
        return self.network.config.scaling_factor

    @torch.no_grad()
    @exact()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Mean and log-variance (N, 2C, h, w) float32 of the posterior, not scaled, of images (N, 3, H, W) uint8; on the CPU."""
        device = self.network.device
        step = max(1, PART // images[0, 0].numel())
        parts = (from_uint8(x.to(device), -1.0, 1.0) for x in images.split(step))
        given = (self.network.encode(x).latent_dist for x in parts)
        return torch.cat([torch.cat([p.mean, p.logvar], 1).cpu() for p in given])

    @torch.no_grad()
    @exact()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) uint8, on the CPU, of scaled latents (N, C, h, w)."""
        step = max(1, PART // (latents.shape[-1] * self.factor) ** 2)
        parts = (self.network.decode(x.to(self.network.device) / self.scale).sample for x in latents.split(step))
        return torch.cat([to_uint8(x.cpu(), -1.0, 1.0) for x in parts])

    def there_and_back(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) uint8 encoded and decoded again, by the posterior's mean in half precision, as latents are kept."""
        return self.decode(self.scale * self.encode(images).chunk(2, 1)[0].half().float())

    @property
    def factor(self) -> int:
        """Pixels that one point of a latent stands for, across and down."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)


# z = scale · (μ + σ ε)   (Kingma & Welling 2014, eq. 10)
def posterior(moments: torch.Tensor, eps: torch.Tensor, scale: float) -> torch.Tensor:
    """Latents (B, C, h, w), a fresh draw of each posterior, of moments (B, 2C, h, w) and noise ε (B, C, h, w)."""
    mean, logvar = moments.to(eps.dtype).chunk(2, 1)
    return scale * (mean + (0.5 * logvar).exp() * eps)


def of_run(params: Params) -> Autoencoder:
    """The autoencoder of a run; where it goes on from another training, that of the other. Raises PretrainedMissing and Preempted."""
    return autoencoder(params.model.vae, origin(params).data)


@functools.lru_cache(maxsize=3)
def autoencoder(vae: str, data: Data) -> Autoencoder:
    """The autoencoder on this process's device; a stand-in is trained on the data set where that was not done before.

    Raises PretrainedMissing and Preempted.
    """
    from diffusers import AutoencoderKL

    if vae in CHANNELS:
        folder = small_vae.trained(load(data), data, CHANNELS[vae])
        # What two machines train by one recipe differs, so the name holds the hash of the weights.
        name = f"{folder.name}@{json.loads((folder / manifest.MANIFEST).read_text())[WEIGHTS][:8]}"
    else:
        folder = located(vae, "vae")
        name = f"{vae}@{PRETRAINED[vae].revision[:8]}" if vae in PRETRAINED else vae

    network = AutoencoderKL.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
    return Autoencoder(network.to(world().device, memory_format=torch.channels_last), name)

"""Frozen autoencoders: images to the latents that a model learns, and back.

`stabilityai/sd-vae-ft-mse` (Rombach et al. 2022) where its weights are in the cache, else `embedded`: a small one of the same kind,
trained on the images at hand.
"""

import functools
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from guidebook import seal
from guidebook.data.images import from_uint8, load, to_uint8
from guidebook.models import small_vae
from guidebook.precision import exact
from guidebook.processes import main_first, world
from guidebook.sections import VAES, Data

EMBEDDED = "embedded"
REVISIONS = {"stabilityai/sd-vae-ft-mse": "31f26fdeee1355a5c34592e401dd41e45d25a493"}
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
PART = 2**20  # pixels of the images that go through the network at a time
log = logging.getLogger(__name__)


class AutoencoderMissing(RuntimeError):
    """An autoencoder's weights that are neither in the cache nor to be had."""


@dataclass(frozen=True)
class Autoencoder:
    network: AutoencoderKL
    name: str  # with the weights' version

    @property
    def scale(self) -> float:
        """What a latent is multiplied by, so that its elements have variance 1 or so (Rombach et al. 2022, section D.1)."""
        return self.network.config.scaling_factor

    @torch.no_grad()
    @exact()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Mean and log-variance (N, 2C, h, w) float32 of the posterior, not scaled, of images (N, 3, H, W) uint8; on the CPU."""
        device = self.network.device
        parts = (
            self.network.encode(from_uint8(x.to(device), -1.0, 1.0)).latent_dist
            for x in images.split(self._part(images))
        )
        return torch.cat([torch.cat([p.mean, p.logvar], 1).cpu() for p in parts])

    @torch.no_grad()
    @exact()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) uint8, on the CPU, of scaled latents (N, C, h, w)."""
        size, device = latents.shape[-1] * self.factor, self.network.device
        step = max(1, PART // size**2)
        parts = (self.network.decode(x.to(device) / self.scale).sample for x in latents.split(step))
        return torch.cat([to_uint8(x.cpu(), -1.0, 1.0) for x in parts])

    @property
    def factor(self) -> int:
        """Pixels that one point of a latent stands for, across and down."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def _part(self, images: torch.Tensor) -> int:
        return max(1, PART // images[0, 0].numel())


# z = scale · (μ + σ ε)   (Kingma & Welling 2014, eq. 10)
def posterior(moments: torch.Tensor, eps: torch.Tensor, scale: float) -> torch.Tensor:
    """Latents (B, C, h, w), a fresh draw of each posterior, of moments (B, 2C, h, w) and noise ε (B, C, h, w)."""
    mean, logvar = moments.to(eps.dtype).chunk(2, 1)
    return scale * (mean + (0.5 * logvar).exp() * eps)


def at_hand(vae: str) -> bool:
    """Whether an autoencoder needs no download."""
    return vae == EMBEDDED or _folder(vae) is not None


def resolve(vae: str) -> str:
    """The autoencoder that can really be used: `embedded` (with a warning) where the weights are not in the cache.

    Raises AutoencoderMissing instead in a job of SLURM.
    """
    if at_hand(vae):
        return vae
    if "SLURM_JOB_ID" in os.environ:  # nobody would see the warning, and the run is another than the one submitted
        raise AutoencoderMissing(
            f"autoencoder {vae} is not in this node's cache: is HF_HOME the same here as where it was fetched? "
            "--set model.vae=embedded takes a stand-in"
        )
    log.warning("the weights of %s are not in the cache: an autoencoder that is trained here takes their place", vae)
    return EMBEDDED


def fetch(vae: str) -> str:
    """Downloads an autoencoder's weights into the cache; says where they lie. Raises AutoencoderMissing."""
    if vae == EMBEDDED:
        return "is trained where it is needed"
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(vae, revision=REVISIONS[vae], allow_patterns=list(FILES))
    except Exception as error:  # the hub's client raises its own kinds
        raise AutoencoderMissing(
            f"autoencoder {vae}: the hub did not give it ({type(error).__name__}); fetch it on a machine with internet, "
            "or set model.vae=embedded, a stand-in"
        ) from None


@functools.lru_cache(maxsize=2)
def autoencoder(vae: str, data: Data) -> Autoencoder:
    """The autoencoder on this process's device; `embedded` is trained on the data set where that was not done before.

    Raises AutoencoderMissing and seal.Corrupt.
    """
    if vae == EMBEDDED:
        images = load(data)  # where all processes may have to work at it together
        with main_first():
            folder = small_vae.trained(images, data)
        seal.verify(folder, f"delete {folder} and run again: it is trained anew")
        # What two machines train by one recipe differs.
        name = f"{folder.name}@{json.loads((folder / seal.MANIFEST).read_text())[FILES[1]][:8]}"
    elif (folder := _folder(vae)) is None:
        raise AutoencoderMissing(f"autoencoder {vae} is not in the cache: `guidebook fetch EXPERIMENT` brings it")
    else:
        name = f"{vae}@{REVISIONS[vae][:8]}"
    network = AutoencoderKL.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
    return Autoencoder(network.to(world().device, memory_format=torch.channels_last), name)


def latent_shape(vae: str, data: Data) -> tuple[int, int, int]:
    """(C, h, w) of a latent. Loads nothing."""
    channels, factor = VAES[vae]
    return channels, data.resolution // factor, data.resolution // factor


def _folder(vae: str) -> Path | None:
    """Its folder in the hub's cache at the pinned revision, where its files are there."""
    from huggingface_hub import try_to_load_from_cache

    files = [try_to_load_from_cache(vae, file, revision=REVISIONS[vae]) for file in FILES]
    return Path(files[0]).parent if all(isinstance(file, str) for file in files) else None

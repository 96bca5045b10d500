"""The embedded autoencoder, of Stable Diffusion's kind (Rombach et al. 2022), small enough to train in a minute on a CPU."""

import functools
from pathlib import Path

import torch
from torch.nn import functional as F

from guidebook.config.paths import runs
from guidebook.config.schema import Data
from guidebook.data.images import Images, from_uint8
from guidebook.data.order import order
from guidebook.runs.artifact import artifact
from guidebook.runs.fit import fit, state_of
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.seeds import generator, seed_of

WIDTHS, GROUPS = (16, 48), 8
STEPS, OTHERWISE = {8: 50, 16: 1300, 32: 1300}, 2000  # by resolution
PASSES = 20  # over the images, at most
BATCH, LR, BETAS, KL, SEED = 8, 6e-3, (0.9, 0.95), 1e-4, 0


def trained(images: Images, data: Data, channels: int = 4) -> Path:
    """Its folder, in diffusers' format: found among the runs, else trained now, always on the CPU, in bf16 where it has it.

    Learns to give images back with a small mean absolute error, and latents that are nearly N(0, 1): the sum of both, the latter
    with weight `KL` per element. `scaling_factor` is one over the standard deviation of its latents. Raises Preempted.
    """
    steps = min(STEPS.get(data.resolution, OTHERWISE), PASSES * len(images.train) // BATCH)
    spec = [images.fingerprint, data.resolution, WIDTHS, GROUPS, steps, BATCH, LR, BETAS, KL, SEED]
    spec += [channels] * (channels != 4)
    place = runs() / "vaes", f"vae-{data.name}", spec

    def make(aside: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("vae", SEED))
            network = build(data.resolution, channels)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
        loss = functools.partial(_loss, network, images.train.images)
        fit(state_of(*place), network, optimizer, schedule, steps, loss, "autoencoder", clip=1.0)
        with torch.no_grad():
            some = network.encode(from_uint8(images.train.images[:500], -1.0, 1.0)).latent_dist
        network.register_to_config(scaling_factor=round(1 / float(some.mean.var() + some.var.mean()) ** 0.5, 5))
        network.save_pretrained(aside)

    return artifact(*place, make, what="the autoencoder")


def _loss(network: torch.nn.Module, split: torch.Tensor, step: int) -> torch.Tensor:
    x = from_uint8(split[order(len(split), SEED, step * BATCH, BATCH)], -1.0, 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16("cpu")):
        given = network.encode(x).latent_dist
        z = given.mean + given.std * torch.randn(given.mean.shape, generator=generator("vae", SEED, step))
        y = network.decode(z).sample
    mean, variance, log = given.mean.float(), given.var.float(), given.logvar.float()
    # KL(q ‖ N(0, 1)), a mean over elements   (Kingma & Welling 2014, appendix B)
    divergence = 0.5 * (mean**2 + variance - 1 - log).mean()
    return F.l1_loss(y.float(), x) + KL * divergence


def build(resolution: int, channels: int = 4) -> torch.nn.Module:
    """The network, with random weights."""
    from diffusers import AutoencoderKL

    n = len(WIDTHS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, block_out_channels=WIDTHS,
        layers_per_block=1, latent_channels=channels, norm_num_groups=GROUPS, sample_size=resolution,
        mid_block_add_attention=False,
    )  # fmt: skip

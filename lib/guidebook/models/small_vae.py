"""The embedded autoencoder: of the kind that Stable Diffusion uses (Rombach et al. 2022), small enough to train in a minute on a CPU."""

import json
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

from guidebook.config.params import digest
from guidebook.config.paths import runs
from guidebook.config.schema import VAES, Data
from guidebook.data.images import Images, from_uint8, order
from guidebook.runs import manifest
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.rng import generator, seed_of

WIDTHS, GROUPS = (16, 48), 8
STEPS, OTHERWISE = {8: 50, 16: 1300, 32: 1300}, 2000  # by resolution
PASSES = 20  # over the images, at most
BATCH, LR, BETAS, KL, SEED, VERSION = 8, 6e-3, (0.9, 0.95), 1e-4, 0, 2


def trained(images: Images, data: Data) -> Path:
    """Its folder, in diffusers' format: found among the runs, else trained now, always on the CPU, in bf16 where it has it.

    Learns to give images back with a small mean absolute error, and latents that are nearly N(0, 1): the sum of both, the latter
    with weight `KL` per element. `scaling_factor` is one over the standard deviation of its latents.
    """
    most = PASSES * len(images.train) // BATCH
    steps, bf16 = min(STEPS.get(data.resolution, OTHERWISE), most), native_bf16("cpu")
    key = digest([VERSION, images.fingerprint, data.resolution, WIDTHS, GROUPS, steps, BATCH, LR, BETAS, KL, SEED])
    folder = runs() / "vaes" / f"vae-{data.name}-{key}"
    if folder.is_dir():
        return folder
    split = images.train.images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("vae", SEED))
        network = build(data.resolution)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    for step in tqdm(range(steps), desc="autoencoder", unit="step", mininterval=1):
        x = from_uint8(split[order(len(split), SEED, step * BATCH, BATCH)], -1.0, 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            given = network.encode(x).latent_dist
            z = given.mean + given.std * torch.randn(given.mean.shape, generator=generator("vae", SEED, step))
            y = network.decode(z).sample
        mean, variance, log = given.mean.float(), given.var.float(), given.logvar.float()
        # KL(q ‖ N(0, 1)), a mean over elements   (Kingma & Welling 2014, appendix B)
        divergence = 0.5 * (mean**2 + variance - 1 - log).mean()
        (F.l1_loss(y.float(), x) + KL * divergence).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    network.eval().requires_grad_(False)
    with torch.no_grad():
        some = network.encode(from_uint8(split[:500], -1.0, 1.0)).latent_dist
    network.register_to_config(scaling_factor=round(1 / float(some.mean.var() + some.var.mean()) ** 0.5, 5))
    with manifest.whole(folder, f"the autoencoder {folder.name}") as aside:
        network.save_pretrained(aside)
        (aside / "data.json").write_text(json.dumps({"data": data.name, "fingerprint": images.fingerprint}))
    return folder


def build(resolution: int) -> torch.nn.Module:
    """The network, with random weights."""
    channels, n = VAES["embedded"][0], len(WIDTHS)
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, block_out_channels=WIDTHS,
        layers_per_block=1, latent_channels=channels, norm_num_groups=GROUPS, sample_size=resolution,
        mid_block_add_attention=False,
    )  # fmt: skip

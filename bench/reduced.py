"""A pipeline of Stable Diffusion's architecture at three tenths of its width, with random weights, where the published one is not here.

Its U-Net, its autoencoder and its text encoder have the published levels, layers, factor and number of tokens.
"""

import string
from pathlib import Path

import torch

from guidebook.config.params import Params
from guidebook.config.paths import runs
from guidebook.config.pretrained import available, is_pipeline
from guidebook.diffusion.solvers import scheduler
from guidebook.models.unet import UNet
from guidebook.runs.artifact import artifact

# Widths of the U-Net, the text encoder and the autoencoder; published are 320, 640, 1280, 1280; 768; 128, 256, 512, 512
CHANNELS, TEXT, VAE = (96, 192, 384, 384), 256, (32, 64, 128, 128)
BATCH, DRAWN = 8, 4  # drawn objects of a step, images that are sampled at once


def at_hand(params: Params) -> Params:
    """Params without what would have to be trained or fetched first: the weights that a training begins with change no speed."""
    if not is_pipeline(params.model.init):
        return params.replace(model={"init": None})
    if available(params.model.init):
        return params
    small = params.replace(
        profile="reduced",
        data={"name": "scenes", "limit": 20 * BATCH},
        model={"channels": CHANNELS},
        train={"batch": BATCH, "epochs": 1000, "precision": "auto", "channels_last": torch.cuda.is_available()},
        sample={"batch": DRAWN},
    )
    folder = artifact(
        runs() / "bench", "pipeline", [small.objective, small.model, TEXT, VAE], lambda aside: _save(small, aside)
    )
    return small.replace(text={"encoder": str(folder)}, model={"init": str(folder), "vae": str(folder)})


def _save(params: Params, folder: Path) -> None:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    ends, n = ["<|startoftext|>", "<|endoftext|>"], len(VAE)
    words = [*string.printable, *(c + "</w>" for c in string.printable), *ends]  # tokens are letters
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=TEXT, intermediate_size=4 * TEXT, num_hidden_layers=12, num_attention_heads=4,
        max_position_embeddings=77, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, block_out_channels=VAE,
            layers_per_block=2, latent_channels=4, sample_size=params.data.resolution, scaling_factor=0.18215,
        )  # fmt: skip
        side = params.data.resolution // 2 ** (n - 1)
        unet, text = UNet.of(params.model, (4, side, side), TEXT), CLIPTextModel(config)
    noise = scheduler(params.objective, clip=False)
    noise.register_to_config(steps_offset=1)  # as published
    StableDiffusionPipeline(
        unet=unet.stock(), vae=vae, text_encoder=text, scheduler=noise,
        tokenizer=CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=77),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip

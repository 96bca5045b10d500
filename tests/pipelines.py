"""Folders of Stable Diffusion's layout with random weights, at any width."""

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def pipeline(
    folder: Path,
    unet: Sequence[int] = (32, 32),  # channels by level; all but the last read the text
    vae: Sequence[int] = (16, 16),
    heads: int = 2,
    layers: int = 1,  # of a level
    text: int = 16,  # numbers of a token
    published: bool = False,  # with the scheduler that v1.4 comes with
) -> Path:
    """A folder that `StableDiffusionPipeline` loads; its tokenizer knows letters alone."""
    letters = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    ends, reads = ["<|startoftext|>", "<|endoftext|>"], len(unet) - 1
    vocabulary = {word: i for i, word in enumerate([*letters, *ends])}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=4, in_channels=4, out_channels=4, block_out_channels=tuple(unet), layers_per_block=layers,
                down_block_types=(*("CrossAttnDownBlock2D",) * reads, "DownBlock2D"),
                up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * reads),
                cross_attention_dim=text, attention_head_dim=heads,
            ),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * len(vae), up_block_types=("UpDecoderBlock2D",) * len(vae),
                block_out_channels=tuple(vae), layers_per_block=layers, latent_channels=4, norm_num_groups=8, sample_size=8,
                scaling_factor=0.18215,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(
                vocab_size=len(letters) + 2, hidden_size=text, intermediate_size=2 * text, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=77, bos_token_id=52, eos_token_id=53, pad_token_id=53,
            )),
            tokenizer=CLIPTokenizer(vocabulary, [], model_max_length=77),
            scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True) if published else DDPMScheduler(**NOISE, clip_sample=False),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    made.save_pretrained(folder)
    return folder

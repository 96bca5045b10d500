"""The study's denoiser: a diffusers U-Net with cross-attention to the caption on its inner levels."""

import torch

from guidebook.conditioning.encoders import WIDTH
from guidebook.config.params import Params
from guidebook.config.schema import Train
from guidebook.models.space import shape_of
from guidebook.runtime.rng import seed_of

PLAIN = 32  # places across of the widest level with attention, up to which a CPU computes it with plain products


def build(params: Params) -> torch.nn.Module:
    """The U-Net of a run, randomly initialised from `train.seed` without touching the global random state."""
    from diffusers import UNet2DConditionModel

    inner, (channels, side, _) = len(params.model.channels) - 2, shape_of(params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(params.train.seed, "weights"))
        return UNet2DConditionModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=params.model.channels,
            layers_per_block=params.model.layers_per_block,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * inner, "DownBlock2D"),
            up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * inner, "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=params.model.num_heads,
        )


def suit(model: torch.nn.Module, device: torch.device, train: Train) -> torch.nn.Module:
    """Moves the U-Net to a device, in the memory layout asked for, with the attention that is fastest there.

    On a CPU in bf16, plain matrix products train faster than torch's fused attention, up to `PLAIN` places across with heads of width 8;
    over more they are slower, and keep a number for every pair of places. Elsewhere the fused one wins.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if device.type == "cpu" and train.precision == "bf16" and model.config.sample_size // 2 <= PLAIN:
        model.set_attn_processor(AttnProcessor())
    return model.to(device, memory_format=torch.channels_last if train.channels_last else torch.preserve_format)


def halve(model: torch.nn.Module) -> None:
    """Keeps the weights of products in bf16, so that autocast need not convert them at every step: the same numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.to(torch.bfloat16)


def parameters(model: torch.nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def gflops(model: torch.nn.Module, tokens: int) -> float:
    """Floating-point operations of one image's forward, in 10⁹, a multiply and an add counted as two.

    Of a network without memory, which computes nothing, and with attention as plain products: the counter does not know a CPU's fused one.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from torch.utils.flop_counter import FlopCounterMode

    c, s = model.config.in_channels, model.config.sample_size
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        shape = UNet2DConditionModel.from_config(model.config)
        shape.set_attn_processor(AttnProcessor())
        shape(torch.zeros(1, c, s, s), torch.zeros(1), torch.zeros(1, tokens, WIDTH))
    return counter.get_total_flops() / 1e9

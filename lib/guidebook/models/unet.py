"""The study's U-Net: diffusers' network with cross-attention to the text on its inner levels, or Stable Diffusion's (Rombach et al. 2022)."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from guidebook.conditioning.condition import Condition
from guidebook.config.networks import Model
from guidebook.config.schema import Train
from guidebook.models.backbone import Backbone

PLAIN = 32  # places across of the widest level with attention, up to which a CPU computes it with plain products


class UNet(Backbone, UNet2DConditionModel):
    """Its folder is one that `UNet2DConditionModel.from_pretrained` loads too."""

    @classmethod
    def of(cls, model: Model, shape: tuple[int, int, int], width: int) -> "UNet":
        levels, (channels, side, _) = len(model.channels), shape
        # Whether each level reads the text, from the outermost
        reads = [model.cross_attention == "all-but-last", *[True] * (levels - 2), False]
        return cls(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=model.channels,
            layers_per_block=model.layers_per_block,
            down_block_types=tuple("CrossAttnDownBlock2D" if r else "DownBlock2D" for r in reads),
            up_block_types=tuple("CrossAttnUpBlock2D" if r else "UpBlock2D" for r in reversed(reads)),
            cross_attention_dim=width,
            attention_head_dim=model.num_heads,  # diffusers' name for the number of heads
            resnet_time_scale_shift="scale_shift" if model.modulation == "scale-shift" else "default",
        )

    def forward(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return UNet2DConditionModel.forward(self, x, t, cond.tokens, return_dict=False)[0]

    def place(self, device: torch.device, train: Train) -> "UNet":
        """On a CPU in bf16, plain matrix products train faster than torch's fused attention, up to `PLAIN` places across with heads
        of width 8; over more they are slower, and keep a number for every pair of places. Elsewhere the fused one wins.
        """
        if device.type == "cpu" and train.precision == "bf16" and self.config.sample_size // 2 <= PLAIN:
            self.set_attn_processor(AttnProcessor())
        return super().place(device, train)

    def stock(self) -> UNet2DConditionModel:
        with torch.device("meta"):
            network = UNet2DConditionModel.from_config(self.config)
        network.load_state_dict(self.state_dict(), assign=True)
        return network.eval()

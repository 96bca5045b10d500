"""The section of a params file on the network, by kind. Nothing here imports torch."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from guidebook.config.pretrained import CHANNELS, SD, SD_VAE
from guidebook.config.schema import OrFolder
from guidebook.config.section import Kinds, Section, Tuple

TABLE = 192  # patches across of the largest image that MM-DiT's positions are for


class Model(Kinds):
    """The network. A new kind is one class here, a file in `guidebook.models` and a row of its `backbones()`."""

    pooled: ClassVar[bool] = False  # whether it takes one vector of the text beside its tokens
    # Whose latents are learnt; None is the pixels
    vae: Annotated[Literal[(*CHANNELS, SD_VAE, SD)], OrFolder] | None = None
    # Whose weights the training begins with: a pipeline, or EXPERIMENT/PROFILE, a training of this study; None is random ones
    init: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class UNet(Model):
    """diffusers' UNet2DConditionModel."""

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=32)], ...], Tuple(2, 8)]  # by level
    layers_per_block: Annotated[int, Field(ge=1, le=8)]
    num_heads: Annotated[int, Field(ge=1, le=256)]  # what diffusers calls attention_head_dim
    modulation: Literal["shift", "scale-shift"] = "shift"  # what the time does to the features of residual blocks
    # Levels that read the text: all but the first and the last, or, as in Stable Diffusion, all but the last
    cross_attention: Literal["inner", "all-but-last"] = "inner"


class Patched(Section):
    """Layers of one width on the patches of an image."""

    patch: Annotated[int, Field(ge=1, le=64)]  # pixels, or points of a latent, across a patch
    hidden: Annotated[int, Field(ge=4, le=8192, multiple_of=4)]  # numbers per patch: sine and cosine of column and row
    layers: Annotated[int, Field(ge=1, le=200)]
    num_heads: Annotated[int, Field(ge=1, le=256)]

    def conflicts(self):
        if self.hidden % self.num_heads:
            yield f"model.num_heads = {self.num_heads} must divide model.hidden = {self.hidden}"

    def misfits(self, side: int, of: str) -> Iterator[str]:
        """Why an image of so many pixels, or points of a latent, across has no patches."""
        if side % self.patch:
            yield f"model.patch = {self.patch} must divide the {side} {of} across"


class DiT(Patched, Model):
    """A transformer on patches (Peebles & Xie 2023). Its sizes, hidden × layers × num_heads (table 1): S 384 × 12 × 6,
    B 768 × 12 × 12, L 1024 × 24 × 16, XL 1152 × 28 × 16; each with a patch of 2, 4 or 8."""

    kind: Literal["dit"] = "dit"
    conditioning: Literal["in-context", "cross-attention", "adaln", "adaln-zero"]  # how time and text come in


class SSM(Patched, Model):
    """DiT, adaln-zero, with a selective state space in the place of self-attention (Dao & Gu 2024)."""

    kind: Literal["ssm"] = "ssm"
    state: Annotated[int, Field(ge=1, le=1024)]  # numbers of a state for each channel


class MMDiT(Patched, Model):
    """A transformer with a stream for the image and one for the text (Esser et al. 2024). Of depth n: n layers, n heads of 64, 64 n hidden."""

    pooled = True
    kind: Literal["mmdit"] = "mmdit"
    qk_norm: bool  # queries and keys of RMS 1, times a gain that is learnt
    # Between the positions of neighbouring patches: 1 as in DiT, or a third, as published for images of 64 patches across and more
    position_step: Annotated[float, Field(gt=0, le=1)] = 1 / 3

    def conflicts(self):
        if self.hidden != 64 * self.num_heads:
            yield f"model.hidden = {self.hidden} must be 64 × model.num_heads = {64 * self.num_heads}"

    def misfits(self, side, of):
        yield from super().misfits(side, of)
        if side > self.patch * TABLE:
            yield f"model.patch = {self.patch}: the {side} {of} across have more than {TABLE} patches, those of the table of positions"

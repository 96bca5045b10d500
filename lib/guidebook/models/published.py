"""Published networks, built without memory from their configurations: their parameters, and the operations of a forward.

Torch's meta device holds shapes and no values, so a network of twelve billion parameters is counted in a tenth of a second.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidebook.config.errors import nearest, shown
from guidebook.config.params import Params

if TYPE_CHECKING:
    from torch import nn

# The classes that a configuration may be of, and where each is. Nothing here imports torch before a network is built.
NETWORKS = {
    "UNet2DConditionModel": "diffusers", "AutoencoderKL": "diffusers", "DiTTransformer2DModel": "diffusers",
    "PixArtTransformer2DModel": "diffusers", "SD3Transformer2DModel": "diffusers", "FluxTransformer2DModel": "diffusers",
    "CLIPModel": "transformers", "CLIPTextModel": "transformers", "CLIPTextModelWithProjection": "transformers",
    "T5EncoderModel": "transformers", "BlipVisionModel": "transformers",
    "BlipTextModel": "transformers.models.blip.modeling_blip_text",
}  # fmt: skip
FORWARD = ("UNet2DConditionModel", "DiTTransformer2DModel")  # those whose inputs `measure` knows
# Parts of a forward; attention's are its two products, and what is before and behind them are linear layers
PARTS = ("convolutions", "linear layers", "self-attention", "cross-attention")


@dataclass(frozen=True)
class Measured:
    """The cost of one network; the multiply-adds and activations are of one image's forward, 0 where none was run."""

    parameters: int  # that training may change
    tables: int  # numbers of fixed tables, such as positions
    macs: dict[str, int]  # by `PARTS`
    activations: int  # numbers that its layers put out
    coarsest: int = 1  # downsampling at the coarsest level of a U-Net
    # Bytes of each image that a training step keeps to its backward, and of the largest part that gradient checkpointing computes again
    saved: int = 0
    again: int = 0

    @property
    def total(self) -> int:
        return sum(self.macs.values())

    @property
    def gmac(self) -> float:
        """10⁹ multiply-adds, as papers count; two FLOP each."""
        return self.total / 1e9

    @property
    def gflop(self) -> float:
        return 2 * self.gmac


def measure(network: str, config: Mapping[str, Any], side: int | None = None, tokens: int = 77) -> Measured:
    """The cost of a network of `NETWORKS`; a forward is run where the `side` of its input is given.

    Raises ValueError for a key that its configuration does not have, and TypeError for one that it cannot do without.
    """
    import torch

    with torch.device("meta"), torch.no_grad():
        net = _built(network, config)
        if not side:
            return _measured(net, {})
        x, t = torch.zeros(1, net.config.in_channels, side, side), torch.zeros(1)
        if network == "DiTTransformer2DModel":
            labels = torch.zeros(1, dtype=torch.long)
            return _measured(net, {"hidden_states": x, "timestep": t, "class_labels": labels})
        text = torch.zeros(1, tokens, net.config.cross_attention_dim)
        return _measured(net, {"sample": x, "timestep": t, "encoder_hidden_states": text})


def cost(params: Params) -> Measured:
    """The cost of a run's backbone, from a network without memory, which computes nothing."""
    import torch

    from guidebook.models import build, inputs

    with torch.device("meta"), torch.no_grad():
        return _measured(build(params), inputs(params))


def _built(network: str, config: Mapping[str, Any]) -> "nn.Module":
    made = getattr(importlib.import_module(NETWORKS[network]), network)
    if NETWORKS[network] == "diffusers":
        _refuse_unknown(network, config, inspect.signature(made.__init__).parameters)
        net = made(**config)
        if network == "DiTTransformer2DModel":  # DiT has one embedder of time and class, diffusers one in every block
            for block in net.transformer_blocks[1:]:
                block.norm1.emb = net.transformer_blocks[0].norm1.emb
        return net
    _refuse_unknown(network, config, made.config_class().to_dict())
    # ImageReward's text encoder has no pooler.
    return made(made.config_class(**config), **({"add_pooling_layer": False} if network == "BlipTextModel" else {}))


def _refuse_unknown(network: str, config: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    """Raises ValueError. transformers' configurations take any key, and forget those they do not know."""
    for key, value in config.items():
        if key not in allowed:
            raise ValueError(f"{network} has no parameter {shown(key)}{nearest(key, list(allowed))}")
        if isinstance(value, Mapping) and isinstance(allowed[key], Mapping):
            _refuse_unknown(f"{network}'s {key}", value, allowed[key])


def _measured(net: "nn.Module", inputs: dict[str, Any]) -> Measured:
    from torch import Tensor
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.modules.module import register_module_forward_hook
    from torch.utils.flop_counter import FlopCounterMode

    outputs: list[int] = []

    def output(module: "nn.Module", given: Any, out: Any) -> None:
        if isinstance(out, Tensor) and not next(module.children(), None):
            outputs.append(out.numel())

    macs, n = {}, 1
    if inputs:
        n = len(next(iter(inputs.values())))
        hook = register_module_forward_hook(output)
        try:
            # Attention as plain products: the counter does not know a CPU's fused one.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                net(**inputs)
        finally:
            hook.remove()
        macs = {part: count // n for part, count in _parts(counter.get_flop_counts()).items()}
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    tables = sum(b.numel() for b in net.buffers() if b.is_floating_point())
    levels = len(getattr(net.config, "block_out_channels", "1"))
    return Measured(parameters, tables, macs, sum(outputs) // n, 2 ** (levels - 1))


def _parts(counts: Mapping[str, Mapping[Any, int]]) -> dict[str, int]:
    """Multiply-adds by `PARTS` from the FLOP of every module and operator. `attn2` is diffusers' name for attention to the text."""
    from torch import ops

    products = (ops.aten.bmm, ops.aten.baddbmm)
    whole = counts["Global"]
    attention = sum(whole.get(op, 0) for op in products)
    cross = sum(of.get(op, 0) for name, of in counts.items() if name.endswith(".attn2") for op in products)
    convolutions = whole.get(ops.aten.convolution, 0)
    linear = sum(whole.values()) - attention - convolutions
    return dict(zip(PARTS, (n // 2 for n in (convolutions, linear, attention - cross, cross)), strict=True))

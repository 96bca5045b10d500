"""The time of a forward and a backward: DiT and MM-DiT beside the classes of diffusers, and ways to join tokens as these grow in number."""

import functools
from collections.abc import Callable

import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel
from torch import nn

from bench import measuring
from guidebook.conditioning.condition import Condition
from guidebook.config.params import Params
from guidebook.models.dit import Attention, DiT
from guidebook.models.mmdit import HEAD, MMDiT
from guidebook.models.ssm import Mixer

BATCH, SIDE, WIDTH, TOKENS = 32, 16, 512, 8
HIDDEN, HEADS, LAYERS = 128, 2, 4
SIDES = (8, 16, 32, 64)  # of 64 to 4,096 tokens


def networks(params: Params, repeats: int = 5) -> dict:
    """Images per second of each, in fp32 and bf16, in turns; and of one layer that joins an image's tokens, of convolution, attention and
    state space. At equal weights the pairs give equal outputs, as tests show."""
    blocks, images = {}, {}
    for half in (False, True):
        for name, forward in pairs().items():
            way = f"{name}, {'bf16' if half else 'fp32'}"
            blocks[way], images[way] = functools.partial(_step, forward, half), BATCH
    for side in SIDES:
        for name, layer in joining(side).items():
            way, n = f"{name}, {side**2} tokens", max(1, 1024 // side**2)
            x = torch.randn(n, side**2, HIDDEN)
            blocks[way], images[way] = functools.partial(_step, functools.partial(layer, x), False), n
    for block in blocks.values():  # warms up
        block()
    speeds = {way: [images[way] / s for s in turns] for way, turns in measuring.alternate(blocks, repeats).items()}
    rows = [{"name": way, "speed": measuring.spread(values), "speeds": values} for way, values in speeds.items()]
    named = [
        (f"{a}{how}, {p}", f"{b}, {p}")
        for a, b in (("dit", "DiTTransformer2DModel"), ("mmdit", "SD3Transformer2DModel"))
        for how in ("", " compiled")
        for p in ("fp32", "bf16")
    ]
    named += [(f"{name}, {SIDES[0] ** 2} tokens", f"{name}, {SIDES[-1] ** 2} tokens") for name in joining(2)]
    return measuring.report(
        "networks", params, rows, measuring.ratios(speeds, [(a, a, b, "a forward and a backward") for a, b in named])
    )


def pairs() -> dict[str, Callable[[], torch.Tensor]]:
    """Forwards of networks of the same layers. DiT is without its attention to the text, which that of diffusers has not."""
    x, t, y = torch.randn(BATCH, 3, SIDE, SIDE), torch.rand(BATCH) * 1000, torch.zeros(BATCH, dtype=torch.long)
    cond = Condition(torch.randn(BATCH, TOKENS, WIDTH), pooled=torch.randn(BATCH, WIDTH))
    dit, mmdit = (
        DiT(3, SIDE, 2, HIDDEN, LAYERS, HEADS, "adaln-zero", WIDTH),
        MMDiT(3, SIDE, 2, HIDDEN, LAYERS, True, WIDTH, WIDTH, 96),
    )
    for block in dit.blocks:
        block.attn2 = None
    alike = {
        "patch_size": 2,
        "in_channels": 3,
        "sample_size": SIDE,
        "num_layers": LAYERS,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD,
    }
    theirs = DiTTransformer2DModel(**alike, num_embeds_ada_norm=1000)
    of_text = {
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "caption_projection_dim": HIDDEN,
        "qk_norm": "rms_norm",
    }
    sd3 = SD3Transformer2DModel(**alike, **of_text, out_channels=3)
    compiled = {name: torch.compile(net) for name, net in (("dit", dit), ("mmdit", mmdit))}
    return {
        "dit": lambda: dit(x, t, cond),
        "dit compiled": lambda: compiled["dit"](x, t, cond),
        "DiTTransformer2DModel": lambda: theirs(x, t.long(), y).sample,
        "mmdit": lambda: mmdit(x, t, cond),
        "mmdit compiled": lambda: compiled["mmdit"](x, t, cond),
        "SD3Transformer2DModel": lambda: sd3(x, cond.tokens, cond.pooled, t).sample,
    }


def joining(side: int) -> dict[str, nn.Module]:
    """Layers on the tokens (B, side², HIDDEN) of an image."""
    conv = nn.Sequential(nn.Unflatten(1, (side, side)), _Moved(HIDDEN), nn.Flatten(1, 2))
    return {"convolution": conv, "attention": Attention(HIDDEN, HEADS), "state space": Mixer(HIDDEN, 4, 16, side)}


class _Moved(nn.Conv2d):
    """A convolution of images whose channels are last."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


def _step(forward: Callable[[], torch.Tensor], half: bool) -> float:
    def work() -> None:
        with torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=half):
            out = forward()
        out.float().square().mean().backward()

    return measuring.seconds(work)

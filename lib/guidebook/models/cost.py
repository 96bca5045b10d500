"""The cost of a network: its parameters, and the operations of one image's forward."""

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import width
from guidebook.config.params import Params
from guidebook.models import build
from guidebook.models.space import shape_of


@dataclass(frozen=True)
class Cost:
    parameters: int  # that training may change
    macs: int  # multiply-adds of one forward, as papers count; two FLOP each

    @property
    def gmac(self) -> float:
        return self.macs / 1e9

    @property
    def gflop(self) -> float:
        return 2 * self.gmac


@torch.no_grad()
def cost(params: Params) -> Cost:
    """The cost of a run's backbone, from a network without memory, which computes nothing."""
    with torch.device("meta"):
        net, x, t = build(params), torch.zeros(2, *shape_of(params)), torch.zeros(2)
        cond = Condition(tokens=torch.zeros(2, params.text.tokens, width(params.text)))
        # Attention as plain products: the counter does not know a CPU's fused one.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            net(x, t, cond)
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(parameters, counter.get_total_flops() // (2 * len(x)))

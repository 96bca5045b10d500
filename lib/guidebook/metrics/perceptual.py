"""LPIPS as a feature space: the distance of two images as people see it (Zhang et al. 2018)."""

import functools
import itertools

import torch
import torch.nn.functional as F

from guidebook.metrics.networks import Network, rgb
from guidebook.metrics.weights import Weights
from guidebook.runtime.distributed import world

ALEXNET = Weights(
    "alexnet-owt-7be5be79.pth", "7be5be79", url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
)
LINEAR = Weights(
    "alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    inside="torchmetrics/functional/image/lpips_models",
)
LEAST = 64  # pixels: AlexNet has nothing left of smaller images at its last layers
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


# d(x, x') = Σ_l 1/(H_l W_l) Σ_hw ‖w_l ⊙ (y_hw − y'_hw)‖², y of unit length along the channels   (eq. 1)
class Lpips(Network):
    """`features` (B, D) whose squared Euclidean distance is the LPIPS of two images; AlexNet, version 0.1.

    The distance is a sum of weighted squares, so each layer is scaled once by the roots of its weights: then all pairs of a set
    cost one forward pass an image. Images under 64 pixels are enlarged to 64.
    """

    weights = (ALEXNET, LINEAR)

    @property
    def name(self) -> str:
        return f"lpips-alexnet-{ALEXNET.id()}-{LINEAR.id()}"

    def forward(self, images):
        stages = _stages(ALEXNET.id(), LINEAR.id(), world().device)
        x = rgb(images) / 127.5 - 1
        if x.shape[-1] < LEAST:
            x = F.interpolate(x, (LEAST, LEAST), mode="bilinear", align_corners=False)
        x, parts = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None], []
        for layers, root in stages:
            x = layers(x)
            unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
            parts.append((unit * root / (x.shape[-2] * x.shape[-1]) ** 0.5).flatten(1))
        return {"features": torch.cat(parts, 1)}


@functools.lru_cache(maxsize=1)
def _stages(alexnet_id: str, linear_id: str, device: torch.device) -> list[tuple[torch.nn.Sequential, torch.Tensor]]:
    """AlexNet's five stages up to their ReLU, each with the roots (C, 1, 1) of LPIPS' weights of its channels."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        layers = alexnet().features
    known = {k.removeprefix("features."): v for k, v in ALEXNET.read().items() if k.startswith("features.")}
    layers.load_state_dict(known, assign=True)
    weights = [w[0].clamp(min=0).sqrt().to(device) for _, w in sorted(LINEAR.read().items())]
    slices = [layers[a:b].eval().to(device) for a, b in itertools.pairwise((0, 2, 5, 8, 10, 12))]
    return list(zip(slices, weights, strict=True))

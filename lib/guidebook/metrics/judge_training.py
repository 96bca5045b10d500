"""The judge's network, a classifier of real images, and how a recipe trains it; `metrics.judge` has the recipe of each set.

After Page's ResNet-9 ("How to train your ResNet", 2018) and Jordan (2024).
"""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from guidebook.data.images import Split, unpacked
from guidebook.data.order import order
from guidebook.runs.fit import fit
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.seeds import generator, seed_of

FEATURES = 64


class ResidualNet(nn.Module):
    """A whitening of 2×2 patches that is never trained, then stages that each halve the resolution, then 64 features."""

    def __init__(self, channels: int, widths: tuple[int, ...], depth: int, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8 * channels, 2).requires_grad_(False)
        self.stages = nn.Sequential(*(Stage(*pair, depth) for pair in itertools.pairwise((8 * channels, *widths))))
        self.hidden = nn.Linear(widths[-1], FEATURES, bias=False)
        self.norm = nn.BatchNorm1d(FEATURES)
        self.out = nn.Linear(FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, K) and features (N, 64) of pixels (N, C, H, W) in 0 … 255."""
        x = F.relu(self.stem(pixels.float() / 127.5 - 1))
        features = self.norm(self.hidden(self.stages(x).amax((2, 3))))
        return self.out(F.relu(features)), features

    @torch.no_grad()
    def whiten(self, images: torch.Tensor) -> None:
        """Makes the stem project patches of images (N, C, H, W) uint8 on ± their principal components, each of variance 1."""
        patches = (images / 127.5 - 1).unfold(2, 2, 1).unfold(3, 2, 1)  # (N, C, H − 1, W − 1, 2, 2)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1).double()
        mean, covariance = patches.mean(0), patches.T.cov()
        variance, axes = torch.linalg.eigh(covariance)
        rows = axes.T / (variance + 5e-4 * variance.mean()).sqrt()[:, None]  # weak components stay small
        rows = torch.cat([rows, -rows])
        self.stem.weight.copy_(rows.view_as(self.stem.weight))
        self.stem.bias.copy_(-rows @ mean)


class Stage(nn.Module):
    def __init__(self, before: int, after: int, depth: int):
        super().__init__()
        self.enter = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.branch = nn.ModuleList(nn.Conv2d(after, after, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(depth + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) → (N, after, ⌈H / 2⌉, ⌈W / 2⌉)."""
        x = y = F.relu(self.norms[0](F.max_pool2d(self.enter(x), 2, ceil_mode=True)))
        for convolution, norm in zip(self.branch, self.norms[1:], strict=True):
            y = F.relu(norm(convolution(y)))
        return x + y


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on besides the images: SGD with Nesterov momentum under one cycle of the learning rate.

    bf16 where the device has it. Every image is shifted and, in every second epoch, mirrored, each on its own.
    """

    device: str  # the kind it is trained on: a GPU's judge and a CPU's are two judges
    widths: tuple[int, ...]  # channels after each halving of the resolution
    depth: int  # convolutions of a residual branch
    epochs: int
    shift: int = 4  # pixels
    mirror: bool = True
    lr: float = 0.2  # at its peak
    batch: int = 512
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1  # of the labels
    seed: int = 0
    side: int | None = None  # larger images are reduced to it before they are read
    attributes: bool = False  # a label is a set of attributes, each of which is a yes or a no

    @property
    def bf16(self) -> bool:
        return native_bf16(self.device)

    def build(self, channels: int, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of("judge", self.seed))
            network = ResidualNet(channels, self.widths, self.depth, classes)
        return network.to(memory_format=torch.channels_last)

    def train(self, network: nn.Module, split: Split, file: Path) -> None:
        """Trains on the recipe's kind of device, where the whole split lies as uint8; a stop saves the state to `file`."""
        enough = min(5000, max(200, 5000 * 32**2 // split.images[0, 0].numel()))  # patches fill memory
        network.whiten(split.images[:enough])
        network.to(self.device)
        learnt = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learnt, self.lr, self.momentum, weight_decay=self.decay, nesterov=True)
        steps = self.epochs * len(split) // self.batch or 1
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(one_cycle, steps=steps))
        images, labels = split.images.to(self.device), split.labels.to(self.device)

        def loss(step: int) -> torch.Tensor:
            pixels, index = self.augmented(images, step)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                logits = network(pixels)[0]
            return objective(logits.float(), labels[index], self.attributes, self.smoothing)

        fit(file, network, optimizer, schedule, steps, loss, "judge")

    def augmented(self, images: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step, (B, C, H, W) uint8, and the indices (B,) of its images among `images` (N, C, H, W)."""
        n, rng = len(images), generator("augment", self.seed, step)
        place = torch.arange(step * self.batch, (step + 1) * self.batch)
        index = order(n, self.seed, step * self.batch, self.batch)
        mirrored = ((_coins(n, self.seed)[index] + place // n) % 2 == 1) & self.mirror
        shift = torch.randint(-self.shift, self.shift + 1, (self.batch, 2), generator=rng)
        index, mirrored, shift = (x.to(images.device) for x in (index, mirrored, shift))
        return moved(images, index, shift, mirrored), index


def objective(logits: torch.Tensor, labels: torch.Tensor, attributes: bool, smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross-entropy of logits (B, K) with class indices (B,), or with K attributes as bits."""
    if not attributes:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    target = unpacked(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target * (1 - smoothing) + smoothing / 2)


def shrunk(images: torch.Tensor, side: int | None) -> torch.Tensor:
    """Images (N, C, H, W) uint8, their mean over squares of pixels where they are larger than `side`."""
    if side is None or images.shape[-1] <= side:
        return images
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).round().to(torch.uint8) for x in images.split(512)])


def moved(images: torch.Tensor, index: torch.Tensor, shift: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Windows (B, C, H, W) on images (N, C, H, W) that go on beyond their edges as reflections.

    Those of `index` (B,), each window moved down and right by `shift` (B, 2) pixels, and flipped where `mirrored` (B,) is true.
    """
    (channels, height, width), device = images.shape[1:], images.device
    rows, columns = (torch.arange(n, device=device) + by for n, by in ((height, shift[:, :1]), (width, shift[:, 1:])))
    rows, columns = (n - 1 - (n - 1 - i.abs()).abs() for n, i in ((height, rows), (width, columns)))
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    channel = torch.arange(channels, device=device)[:, None, None]
    return images[index[:, None, None, None], channel, rows[:, None, :, None], columns[:, None, None, :]]


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak learning rate: a straight line up over a quarter of the steps, then one down to 0."""
    return float(np.interp(step / steps, [0, 0.25, 1], [0.05, 1, 0]))


@functools.lru_cache(maxsize=2)
def _coins(n: int, seed: int) -> torch.Tensor:
    """The images, (n,) true or false, that are mirrored in even epochs; in odd ones it is the other way round."""
    return torch.randint(0, 2, (n,), generator=generator("mirrored", seed))

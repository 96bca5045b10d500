"""Classifiers that are trained where they are needed: two networks, and the recipes by which they learn.

A recipe builds a network that gives logits and 64 features, trains it, and says what its weights depend on.
"""

import functools
import itertools
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from guidebook.data.images import Split, order
from guidebook.params import digest
from guidebook.rng import generator, seed_of

FEATURES = 64
MOMENTUM, DECAY, SMOOTHING = 0.9, 5e-4, 0.1  # of the residual recipe


@dataclass(frozen=True)
class Small:
    """Two or three convolutions for small drawings: AdamW with a cosine to zero, always trained on the CPU.

    The judges of recorded runs come from here; what `key` and `train` do for them may not change.
    """

    steps: dict[int, int]  # of the optimiser, by resolution; 2,000 at others
    version: int = 1
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0

    def key(self, fingerprint: str) -> str:
        return digest([self.version, fingerprint, self.batch, self.lr, self.seed, self.steps])

    def build(self, channels: int, resolution: int, classes: int) -> nn.Module:
        return SmallNet(channels, resolution, classes)

    def train(self, network: nn.Module, split: Split, device: torch.device) -> None:
        """Images are shifted by up to a tenth of their width, differently in every epoch."""
        steps = self.steps.get(split.images.shape[-1], 2000)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("judge", self.seed))
            _reset(network)
            optimizer = torch.optim.AdamW(network.train().parameters(), lr=self.lr, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for step in tqdm(range(steps), desc="judge", unit="step", mininterval=1):
                index = order(len(split), self.seed, step * self.batch, self.batch)
                pixels = _shift(split.images[index], step)
                F.cross_entropy(network(pixels)[0], split.labels[index]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        network.eval()


class SmallNet(nn.Module):
    def __init__(self, channels: int, resolution: int, classes: int):
        super().__init__()
        pools = 1 if resolution < 16 else 2
        widths = [channels, 32, *[64] * pools]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.hidden = nn.Linear(64 * (resolution // 2**pools) ** 2, FEATURES)
        self.out = nn.Linear(FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, K) and features (N, 64) of pixels (N, C, H, W) in 0 … 255."""
        x = pixels.float() / 127.5 - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(convolution(x)))
            x = F.max_pool2d(x, 2) if i else x
        features = self.hidden(F.dropout(x.flatten(1), 0.3, self.training))
        return self.out(F.relu(features)), features


@dataclass(frozen=True)
class Residual:
    """A residual network for photographs, after Page's ResNet-9 ("How to train your ResNet", 2018) and Jordan (2024).

    SGD with Nesterov momentum under one cycle of the learning rate, label smoothing, bf16 where the device has it. Every image is
    shifted, mirrored in every second epoch and loses a square of itself, each on its own.
    """

    device: str  # the kind it is trained on: a GPU's judge and a CPU's are two judges
    widths: tuple[int, ...]  # channels after each halving of the resolution
    depth: int  # convolutions of a residual branch
    epochs: int
    cutout: int  # side of the square, in pixels; 0 for none
    shift: int = 4  # pixels
    lr: float = 0.2  # at its peak
    batch: int = 512
    version: int = 1
    seed: int = 0

    @property
    def bf16(self) -> bool:
        """Whether it is trained in bf16, else in fp32: without such instructions a CPU is slower in bf16 than in fp32."""
        return self.device != "cpu" or torch.cpu._is_avx512_bf16_supported()

    def key(self, fingerprint: str) -> str:
        """8 hex digits of the data, the recipe and the precision; CPUs with and without bf16 train two judges."""
        precision = "bf16" if self.bf16 else "fp32"
        return digest(["residual", fingerprint, asdict(self), precision, MOMENTUM, DECAY, SMOOTHING])

    def build(self, channels: int, resolution: int, classes: int) -> nn.Module:
        network = ResidualNet(channels, self.widths, self.depth, classes)
        return network.to(memory_format=torch.channels_last)

    def train(self, network: nn.Module, split: Split, device: torch.device) -> None:
        """Trains on `device`, of the recipe's kind, where the whole split lies as uint8; the network stays there."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("judge", self.seed))
            _reset(network)
        network.whiten(
            split.images[: min(5000, max(200, 5000 * 32**2 // split.images[0, 0].numel()))]
        )  # patches fill memory
        network.to(device).train()
        learnt = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learnt, self.lr, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
        steps = self.epochs * len(split) // self.batch or 1
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(one_cycle, steps=steps))
        images, labels = split.images.to(device), split.labels.to(device)
        for step in tqdm(range(steps), desc="judge", unit="step", mininterval=1):
            pixels, index = self.augmented(images, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
                logits = network(pixels)[0]
            F.cross_entropy(logits.float(), labels[index], label_smoothing=SMOOTHING).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        network.eval()

    def augmented(self, images: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step, (B, C, H, W) uint8, and the indices (B,) of its images among `images` (N, C, H, W)."""
        n, size, rng = len(images), images.shape[-1], generator("augment", self.seed, step)
        place = torch.arange(step * self.batch, (step + 1) * self.batch)
        index = order(n, self.seed, step * self.batch, self.batch)
        mirrored = (_coins(n, self.seed)[index] + place // n) % 2 == 1
        shift = torch.randint(-self.shift, self.shift + 1, (self.batch, 2), generator=rng)
        corner = torch.randint(0, size - self.cutout + 1, (self.batch, 2), generator=rng)
        index, mirrored, shift, corner = (x.to(images.device) for x in (index, mirrored, shift, corner))
        return cut(moved(images, index, shift, mirrored), corner, self.cutout), index


class ResidualNet(nn.Module):
    """A whitening of 2×2 patches that is never trained, then stages that each halve the resolution, then 64 features."""

    def __init__(self, channels: int, widths: tuple[int, ...], depth: int, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8 * channels, 2).requires_grad_(False)
        pairs = itertools.pairwise((8 * channels, *widths))
        self.stages = nn.Sequential(*(Stage(a, b, depth) for a, b in pairs))
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
        # Components that the images hardly have stay small.
        rows = axes.T / (variance + 5e-4 * variance.mean()).sqrt()[:, None]
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
        """(N, before, H, W) → (N, after, H / 2, W / 2)."""
        x = y = F.relu(self.norms[0](F.max_pool2d(self.enter(x), 2)))
        for convolution, norm in zip(self.branch, self.norms[1:], strict=True):
            y = F.relu(norm(convolution(y)))
        return x + y


def moved(
    images: torch.Tensor,  # (N, C, H, W)
    index: torch.Tensor,  # (B,) of the images that are wanted
    shift: torch.Tensor,  # (B, 2) pixels down and right that the window on each moves
    mirrored: torch.Tensor,  # (B,) bool
) -> torch.Tensor:
    """Windows (B, C, H, W) on images that go on beyond their edges as reflections; some of them seen in a mirror."""
    (channels, height, width), device = images.shape[1:], images.device
    rows = _reflected(torch.arange(height, device=device) + shift[:, :1], height)
    columns = _reflected(torch.arange(width, device=device) + shift[:, 1:], width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    channel = torch.arange(channels, device=device)[:, None, None]
    return images[index[:, None, None, None], channel, rows[:, None, :, None], columns[:, None, None, :]]


def cut(pixels: torch.Tensor, corner: torch.Tensor, side: int) -> torch.Tensor:
    """Pixels (B, C, H, W) with a grey square in each, its upper left corner (B, 2) given (DeVries & Taylor 2017)."""
    height, width = (torch.arange(n, device=pixels.device) for n in pixels.shape[-2:])
    rows, columns = ((at >= c) & (at < c + side) for at, c in ((height, corner[:, :1]), (width, corner[:, 1:])))
    return pixels.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 128)


def one_cycle(step: int, steps: int) -> float:
    """The share of the peak learning rate: up in a straight line over a quarter of the steps, down to 0 over the others."""
    return float(np.interp(step / steps, [0, 0.25, 1], [0.05, 1, 0]))


def _reflected(i: torch.Tensor, size: int) -> torch.Tensor:
    last = size - 1
    return last - (last - i.abs()).abs()


@functools.lru_cache(maxsize=2)
def _coins(n: int, seed: int) -> torch.Tensor:
    """Whether each image (n,) is mirrored in even epochs; in odd ones it is the other way round."""
    return torch.randint(0, 2, (n,), generator=generator("mirrored", seed))


def _reset(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _shift(pixels: torch.Tensor, step: int) -> torch.Tensor:
    """The whole batch moved by one random offset, edges repeated."""
    reach = max(1, pixels.shape[-1] // 10)
    dy, dx = torch.randint(0, 2 * reach + 1, (2,), generator=generator("shift", step)).tolist()
    padded = F.pad(pixels.float(), [reach] * 4, mode="replicate")
    return padded[..., dy : dy + pixels.shape[-2], dx : dx + pixels.shape[-1]]

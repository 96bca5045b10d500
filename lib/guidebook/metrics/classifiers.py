"""Classifiers that are trained where they are needed: the recipes by which they learn.

A recipe builds a network that gives logits and 64 features, trains it, and says what its weights depend on.
"""

import functools
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from guidebook.config.params import digest
from guidebook.data.images import Split, order, unpacked
from guidebook.metrics.classifier_nets import ResidualNet, SmallNet
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.rng import generator, seed_of

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
    side: int | None = None  # larger images are made so small before they are read
    attributes: bool = False  # a label is a set of attributes, each of which is a yes or a no

    def key(self, fingerprint: str) -> str:
        later = [self.side, self.attributes] if self.side or self.attributes else []
        return digest([self.version, fingerprint, self.batch, self.lr, self.seed, self.steps, *later])

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
                objective(network(pixels)[0], split.labels[index], self.attributes).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        network.eval()


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
    side: int | None = None  # larger images are made so small before they are read
    attributes: bool = False  # a label is a set of attributes, each of which is a yes or a no

    @property
    def bf16(self) -> bool:
        """Whether it is trained in bf16, else in fp32: without such instructions a CPU is slower in bf16 than in fp32."""
        return native_bf16(self.device)

    def key(self, fingerprint: str) -> str:
        """8 hex digits of the data, the recipe and the precision; CPUs with and without bf16 train two judges."""
        precision = "bf16" if self.bf16 else "fp32"
        settings = {k: v for k, v in asdict(self).items() if k not in ("side", "attributes") or v}
        return digest(["residual", fingerprint, settings, precision, MOMENTUM, DECAY, SMOOTHING])

    def build(self, channels: int, resolution: int, classes: int) -> nn.Module:
        network = ResidualNet(channels, self.widths, self.depth, classes)
        return network.to(memory_format=torch.channels_last)

    def train(self, network: nn.Module, split: Split, device: torch.device) -> None:
        """Trains on `device`, of the recipe's kind, where the whole split lies as uint8; the network stays there."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("judge", self.seed))
            _reset(network)
        enough = min(5000, max(200, 5000 * 32**2 // split.images[0, 0].numel()))  # patches fill memory
        network.whiten(split.images[:enough])
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
            objective(logits.float(), labels[index], self.attributes, SMOOTHING).backward()
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
    parts = images.split(512)
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).round().to(torch.uint8) for x in parts])


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

"""The networks of classifiers that are trained where they are needed: each gives logits and 64 features."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = 64


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

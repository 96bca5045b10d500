"""What a data set is to the rest of the library."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Split:
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64: class indices, or attributes as bits

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    train: Split
    test: Split
    classes: tuple[str, ...]  # or attributes
    source: str  # where they came from: "local parquet", "hub", "scikit-learn", "drawn"
    fingerprint: str  # 16 hex digits of every pixel and label
    skipped: tuple[str, ...] = ()  # of both splits: "mnist/train row 17: truncated …"
    note: str = ""  # one sentence for the provenance and under figures


def packed(attributes: torch.Tensor) -> torch.Tensor:
    """Attributes (N, K) bool as numbers (N,) int64 whose bit i is the i-th attribute, K ≤ 62."""
    return (attributes.long() << torch.arange(attributes.shape[1], device=attributes.device)).sum(1)


def unpacked(labels: torch.Tensor, k: int) -> torch.Tensor:
    """The first k attributes (N, k) bool of numbers (N,) int64."""
    return (labels[:, None] >> torch.arange(k, device=labels.device) & 1).bool()

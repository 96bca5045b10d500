"""What a data set is to the rest of the library."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Split:
    images: torch.Tensor  # (N, C, H, W) uint8
    labels: torch.Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str  # where they came from: "local parquet", "hub", "scikit-learn", "drawn"
    fingerprint: str  # 16 hex digits of every pixel and label
    skipped: tuple[str, ...] = ()  # of both splits: "mnist/train row 17: truncated …"
    note: str = ""  # one sentence for the provenance and under figures

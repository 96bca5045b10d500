"""What a network reads in a set of images, read once and kept in `runs/features`."""

import hashlib

import torch

from guidebook.config.paths import runs
from guidebook.metrics.networks import Network
from guidebook.runs.artifact import Parts, arrays, artifact

PART = 500  # images: a stop is obeyed after each


def features(images: torch.Tensor, network: Network) -> dict[str, torch.Tensor]:
    """Rows (N, …) by name of images (N, C, H, W) uint8, on the CPU: found, else read and kept.

    Several processes read a share each, every one gets all. Raises WeightsMissing and Preempted.
    """
    pixels = hashlib.sha256(f"{tuple(images.shape)}".encode())
    pixels.update(images.contiguous().numpy())

    def make(first: int, end: int):
        return {name: rows.numpy() for name, rows in network.read(images[first:end]).items()}, []

    shapes = {name: (shape, dtype) for name, shape, dtype in network.gives}
    parts, name = Parts([*range(0, len(images), PART), len(images)], shapes), network.name.replace("/", "-")
    folder = artifact(runs() / "features", name, pixels.hexdigest(), make, parts, f"images read by {name}")
    return {name: torch.from_numpy(rows) for name, rows in arrays(folder).items()}

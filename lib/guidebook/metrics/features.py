"""What a network reads in a set of images, read once and kept: `runs/features/<network>-<16 hex of the pixels>.safetensors`."""

import hashlib
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from guidebook.config.paths import runs
from guidebook.metrics.networks import Network
from guidebook.runs.manifest import fsync, writing
from guidebook.runtime.distributed import agreed, barrier, gathered, share, world

log = logging.getLogger(__name__)


def features(images: torch.Tensor, network: Network) -> dict[str, torch.Tensor]:
    """Rows (N, …) by name of images (N, C, H, W) uint8, on the CPU: found, else read and kept.

    Several processes read a share each, every one gets all, the main one writes. Raises WeightsMissing.
    """
    file = path_of(images, network)
    found = _load(file)
    if agreed(found is None):
        read = network.read(images[share(len(images))])
        found = {name: gathered(rows).contiguous() for name, rows in read.items()}
        if world().is_main_process:
            _save(file, found)
        barrier()
    return found


def path_of(images: torch.Tensor, network: Network) -> Path:
    """Where they lie, or would."""
    pixels = hashlib.sha256(f"{tuple(images.shape)}".encode())
    pixels.update(images.contiguous().numpy())
    return runs() / "features" / f"{network.name.replace('/', '-')}-{pixels.hexdigest()[:16]}.safetensors"


def _load(file: Path) -> dict[str, torch.Tensor] | None:
    """What a file holds; None where there is none, or its bytes are not what was written."""
    try:
        with safe_open(file, "pt") as kept:
            names = kept.keys()
            found, sha = {name: kept.get_tensor(name) for name in names}, kept.metadata()["sha256"]
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError):
        found, sha = {}, None
    if sha != _digest(found):
        log.warning("%s is not what was written: the images are read again", file.name)
        return None
    return found


def _save(file: Path, found: dict[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with writing(aside, file.name):
        save_file(found, aside, {"sha256": _digest(found)})
        fsync(aside)
        os.replace(aside, file)


def _digest(found: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, rows in sorted(found.items()):
        digest.update(f"{name} {rows.dtype} {tuple(rows.shape)}".encode())
        digest.update(rows.contiguous().numpy())
    return digest.hexdigest()

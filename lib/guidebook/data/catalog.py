"""The data sets of the study: what they are called on the hub, what they hold and where they lie. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from guidebook.paths import local_data

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Entry:
    """One data set. `hub` is None for a set that is embedded: it comes inside a dependency, or code draws it."""

    hub: str | None
    revision: str | None  # the commit of the hub's repository
    image: str  # column of the images
    label: str  # column of the class index
    classes: tuple[str, ...]
    channels: int
    train: int  # rows
    test: int
    codec: str | None  # of the image files that the hub publishes
    note: str  # one sentence for the provenance and under figures


DIGITS = tuple("0123456789")
SCENES = ("ball", "box", "triangle", "star", "heart", "ring", "cross", "moon", "fish", "mushroom")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CATALOG = {
    "digits": Entry(
        None, None, "image", "label", DIGITS, 1, 1437, 360, None,
        "digits: scikit-learn's 1,797 handwritten digits of 8×8 pixels, a small stand-in for MNIST",
    ),
    "mnist": Entry(
        "ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", "image", "label", DIGITS, 1, 60_000, 10_000, "PNG",
        "MNIST: 60,000 training and 10,000 test images of 28×28 pixels",
    ),
    "scenes": Entry(
        None, None, "image", "label", SCENES, 3, 8000, 2000, None,
        "scenes: 8,000 training and 2,000 test images of one coloured object of ten kinds, drawn by code from a seed, a "
        "small stand-in for photographs",
    ),
    "cifar10": Entry(
        "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2", "img", "label", CIFAR10, 3, 50_000, 10_000, "PNG",
        "CIFAR-10: 50,000 training and 10,000 test photographs of 32×32 pixels",
    ),
}  # fmt: skip


def at_hand(name: str) -> bool:
    """Whether a data set needs no download: it is embedded, or its files are all on this machine."""
    if CATALOG[name].hub is None:
        return True
    folder = local_data(name)
    return whole(folder) if folder else snapshot(name) is not None


def snapshot(name: str) -> Path | None:
    """The data set's folder in the hub's cache at its pinned revision, where all its files are there. Asks no network."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    entry = CATALOG[name]
    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=entry.hub, repo_type="dataset")
    folder = place / "snapshots" / entry.revision
    return folder if whole(folder) else None


def whole(folder: Path) -> bool:
    """Whether a folder holds every parquet file of both splits."""
    return all(parquet_files(folder, split)[1] for split in SPLITS)


def parquet_files(folder: Path, split: str) -> tuple[list[Path], bool]:
    """`<split>-*.parquet` anywhere below a folder, and whether these are all of them.

    The hub numbers them `train-00000-of-00003.parquet`; under other names any number is all of them.
    """
    files = sorted(f for f in folder.rglob(f"{split}-*.parquet") if f.is_file())  # a link into nothing is no file
    parts = [re.search(r"-(\d+)-of-(\d+)\.parquet$", f.name) for f in files]
    if not all(parts):
        return files, bool(files)
    numbers, totals = [int(p[1]) for p in parts], {int(p[2]) for p in parts}
    return files, len(totals) == 1 and numbers == list(range(*totals))

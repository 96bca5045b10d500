"""The data sets of the study: what they are called on the hub and what they hold. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One data set. `hub` is None for a set that comes inside a dependency."""

    hub: str | None
    revision: str | None  # the commit of the hub's repository
    image: str  # column of the images
    label: str  # column of the class index
    classes: tuple[str, ...]
    channels: int
    train: int  # rows
    test: int
    note: str  # one sentence for the provenance and under figures


DIGITS = tuple("0123456789")

CATALOG = {
    "digits": Entry(
        None, None, "image", "label", DIGITS, 1, 1437, 360,
        "digits: scikit-learn's 1,797 handwritten digits of 8×8 pixels, a small stand-in for MNIST",
    ),
    "mnist": Entry(
        "ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c", "image", "label", DIGITS, 1, 60_000, 10_000,
        "MNIST: 60,000 training and 10,000 test images of 28×28 pixels",
    ),
}  # fmt: skip

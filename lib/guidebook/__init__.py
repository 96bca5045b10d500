"""guidebook: a reproducible study of guidance in text-to-image diffusion."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidebook.export.trained import TrainedRun

__version__ = "0.1.0"


def open(run: str | PathLike) -> "TrainedRun":
    """A trained run, to sample from and to read: `open("mnist/demo")`, or by its folder.

    Of a name, the newest run that is trained to its end, else the record of one, which holds its numbers and no weights.
    Raises ParamsError where there is none, which says what to run.
    """
    from guidebook.export.trained import TrainedRun, find  # `import guidebook` costs milliseconds

    return TrainedRun(find(run))

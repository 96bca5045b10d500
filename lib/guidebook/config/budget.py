"""Length of a training in images, optimiser steps and checkpoints. Imports no torch."""

from contextlib import suppress

from guidebook.config.params import Params, ParamsError, departures, load
from guidebook.config.schema import Data


def batches(params: Params, epochs: float) -> int:
    """The nearest number of batches, at least one, to a number of epochs."""
    return max(1, round(epochs * rows(params.data) / params.train.batch))


def rows(data: Data) -> int:
    """Training images of an epoch."""
    return min(data.entry.train, data.limit or data.entry.train)


def updates(params: Params) -> int:
    """Optimiser steps of the training."""
    return batches(params, params.train.epochs)


def images(params: Params) -> int:
    """Images that the training sees, a whole number of batches."""
    return updates(params) * params.train.batch


def kept(params: Params) -> tuple[bool, bool, int]:
    """How much of its profile a run keeps: all of it, the seed, and how many images the training sees."""
    changed = []
    with suppress(ParamsError):  # of the profile: whoever runs it is told
        changed = [key for key, _, _ in departures(params)]
    return not changed, "train.seed" not in changed, images(params)


def published(params: Params) -> Params | None:
    """The experiment's published setting, the profile `paper`; None where there is none."""
    try:
        return load(params.experiment, "paper")
    except ParamsError:
        return None


def share(params: Params, seen: int | None = None) -> float | None:
    """The share of the published training, in images, that a training is, or is after `seen` images."""
    paper = published(params)
    return (seen or images(params)) / images(paper) if paper else None


def checkpoint_steps(params: Params) -> tuple[int, int]:
    """Optimiser steps between two checkpoints, and steps during which one is written in the background.

    Together they are `checkpoint_every`, the most that is repeated after an interruption, even in the middle of a write.
    """
    every = batches(params, params.train.checkpoint_every)
    return every - every // 8, every // 8


def snapshot_steps(params: Params) -> int:
    """Optimiser steps between two snapshots of power-function averages."""
    return -(-updates(params) // params.train.snapshots)


def kept_checkpoints(params: Params) -> list[int]:
    """Images seen at each checkpoint that a finished training keeps, oldest first."""
    interval = checkpoint_steps(params)[0] * params.train.batch
    return list(range(interval, images(params) + 1, interval))[-params.train.keep_checkpoints :]

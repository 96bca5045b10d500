"""A tracker beside `stats.jsonl`, for those who watch one: `train.tracker`, off by default."""

import importlib.util
from collections.abc import Callable

from guidebook.runs.run import Run


class TrackerMissing(RuntimeError):
    """The package of the tracker that params name is not installed."""


def tracker(run: Run) -> Callable[[dict], None]:
    """A function that shows a line of statistics: in TensorBoard's `<run>/tensorboard`, or nowhere."""
    name = run.params.train.tracker
    if name is None:
        return lambda line: None
    if importlib.util.find_spec(name) is None:
        raise TrackerMissing(f"train.tracker = {name}: the package is missing; pip install {name}, or leave it null")
    from accelerate.tracking import TensorBoardTracker

    shown = TensorBoardTracker("tensorboard", logging_dir=run.path)
    shown.start()
    return lambda line: shown.log({k: v for k, v in line.items() if isinstance(v, int | float)}, step=line["nimg"])

"""Where lines of statistics go: `stats.jsonl`, a progress bar, and a tracker for those who watch one (`train.tracker`, off by default)."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from guidebook.runs.checked import dumps_lines
from guidebook.runs.manifest import append, write
from guidebook.runs.progress import Bar
from guidebook.runs.run import Run
from guidebook.runs.trainings import turn
from guidebook.runtime.distributed import world
from guidebook.training.step import Trainer


class TrackerMissing(RuntimeError):
    """The package of the tracker that params name is not installed."""


@contextmanager
def tracking(run: Run, trainer: Trainer) -> Iterator[Callable[[dict | None], None]]:
    """A function that takes the line of each step of a training from here on, or None; it does nothing but in the main process.

    Raises TrackerMissing.
    """
    if not world().is_main_process:
        yield lambda line: None
        return
    show, file = tracker(run), run.path / "stats.jsonl"
    before = [line for line in run.stats() if line["nimg"] <= trainer.nimg]  # the others' steps are repeated
    pending = len(trainer.step_losses) * run.params.train.batch  # images since the last line
    if (before[-1]["nimg"] if before else 0) != trainer.nimg - pending:
        raise run.corrupt("stats.jsonl", "lacks lines")
    text, last = dumps_lines(before)
    write(file, text)

    def track(line: dict | None) -> None:
        nonlocal last
        bar.update(trainer.nimg - bar.n)
        if line is None:
            return
        text, last = dumps_lines([line], last)
        append(file, text)
        show(line)
        bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)

    what = f"training {place}: {run.name}" if (place := turn(run)) else f"training {run.name}"
    with Bar(None, what, trainer.total, initial=trainer.nimg, unit="image") as bar:
        yield track


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

"""Training: a loop that can stop anywhere and go on as if it had not."""

import contextlib
import time
from collections.abc import Iterator

from guidebook.config.budget import checkpoint_steps, snapshot_steps
from guidebook.config.params import Params, origin
from guidebook.runs import launch
from guidebook.runs.lock import Locked, owned
from guidebook.runs.preemption import Stop, stopping
from guidebook.runs.run import Run, folder, open_run
from guidebook.runtime.distributed import barrier
from guidebook.training.checkpoint import Writer, resume
from guidebook.training.model import publish
from guidebook.training.provenance import describe
from guidebook.training.reconstruction import SNAPSHOTS
from guidebook.training.step import Trainer, prepared
from guidebook.training.tracking import tracking
from guidebook.training.validation import Validation

WAIT = 2.0  # seconds between two looks whether another process has ended
LOG_EVERY = 20  # steps between lines of stats.jsonl


def train(run: Run) -> None:
    """Trains the run from its newest checkpoint to its end; returns at once where it is trained.

    With `train.processes` above 1 in so many, started now unless `torchrun` did. Raises NotRecorded, Preempted, NonFiniteLoss,
    Locked, DataError, PretrainedMissing, manifest.Corrupt, launch.ProcessFailed, and OSError where the disk is full.
    """
    if run.trained:
        return
    run.needs("the training")
    before = origin(run.params)
    if before is not run.params and not (folder(before) / "model").is_dir():
        _train_before(run, before)
    if launch.wanted(run.params):
        return launch.do(run, "train")
    with owned(run.path), stopping(run) as stop:
        trainer, t = prepared(run.params, known=run.provenance().get("autoencoder")), run.params.train
        steps = *checkpoint_steps(run.params), snapshot_steps(run.params)
        with contextlib.closing(trainer.feed):  # ends the threads that prepare batches
            resume(run, trainer)
            describe(run, trainer)
            with (
                tracking(run, trainer) as track,
                Writer(run.path / "checkpoints", t.keep_checkpoints, steps[0] * t.batch) as writer,
                Writer(run.path / SNAPSHOTS, t.snapshots + 1, 1) as snapshots,
            ):
                for line in lines(trainer, writer, snapshots, steps, stop):
                    track(line)
            publish(run, trainer)
            writer.finish()
            barrier()


def _train_before(run: Run, before: Params) -> None:
    """Trains what a run begins with, which others may begin with, too: one of them trains and the others wait. Raises as `train`."""
    with stopping(run) as stop:
        while True:
            try:
                return train(open_run(before))
            except Locked:
                if stop.asked():
                    stop.obey("waiting for another process's training")
                time.sleep(WAIT)


def lines(
    trainer: Trainer, writer: Writer, snapshots: Writer, steps: tuple[int, int, int], stop: Stop
) -> Iterator[dict | None]:
    """The line of statistics after each step of a training to its end; None after a step that has none.

    On the way checkpoints are written, and a stop is obeyed.

    `steps` are those between two checkpoints, those while one is written, and those between two snapshots of power-function averages,
    which are on the disk before the next checkpoint is. Whoever stops to iterate stops the training. Raises Preempted, NonFiniteLoss,
    and OSError where the disk is full.
    """
    (interval, beside, between), validation = steps, Validation(trainer)
    trainer.start_clock()
    while trainer.nimg < trainer.total:
        trainer.step()
        step = trainer.nimg // trainer.params.train.batch
        regular, ended = step % interval == 0, trainer.nimg >= trainer.total
        if regular or step % LOG_EVERY == 0 or ended:
            line = trainer.flush()
            yield line | validation() if regular or ended else line
            trainer.start_clock()
        else:
            yield None
        halves = trainer.snapshot() if step % between == 0 or ended else {}
        state = trainer.state() if regular else ()
        if halves:
            snapshots.save(halves, {"nimg": trainer.nimg})
        if state:
            snapshots.wait()
            writer.save(*state)
        if step % interval == beside:
            writer.wait()
        if stop.asked():  # last, so that one who asks during a regular save waits for no second one
            snapshots.wait()
            if not regular:
                writer.save(*trainer.state())
            writer.wait()
            stop.obey(f"training after {trainer.nimg:,} images")

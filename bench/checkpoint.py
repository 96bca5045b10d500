"""What a checkpoint costs training."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from guidebook.config import params as P


def checkpoint(say: Callable[[str], None], repeats: int = 9) -> float:
    """What a checkpoint costs training: the share of the time between two of them, at the demo's interval.

    Blocks of as many steps as fit into some three writes, with and without a checkpoint at their beginning, take turns; the
    difference of a pair is what the checkpoint cost, the copying before the next step and the writing beside the steps.
    """
    from guidebook.config.budget import checkpoint_steps
    from guidebook.training.checkpoint import Writer
    from guidebook.training.step import prepared

    params = P.load("mnist", "demo")
    trainer = prepared(params)
    with tempfile.TemporaryDirectory() as folder, Writer(Path(folder), 2, 1) as writer:

        def block(steps: int, save: bool) -> float:
            started = time.perf_counter()
            if save:
                writer.save(trainer.nimg, *trainer.state())
            for _ in range(steps):
                trainer.step()
            trainer.flush()
            writer.wait()
            return time.perf_counter() - started

        def waited() -> float:
            started = time.perf_counter()
            writer.save(trainer.nimg, *trainer.state())
            writer.wait()
            return time.perf_counter() - started

        block(8, True)  # warms up
        step = block(8, False) / 8
        whole = waited()
        steps = max(8, round(3 * whole / step))
        costs = [block(steps, True) - block(steps, False) for _ in range(repeats)]
    cost, every = statistics.median(costs), checkpoint_steps(params)[0]
    share = cost / (every * step)
    say(f"step       {1000 * step:8.1f} ms, {every} between two checkpoints: {every * step:.1f} s")
    say(f"checkpoint {1000 * whole:8.1f} ms if training waits for all of it")
    say(
        f"           {1000 * cost:8.1f} ms of training time as it is written beside the steps (median of {repeats} pairs)"
    )
    say(f"share      {100 * share:8.2f} %")
    return share

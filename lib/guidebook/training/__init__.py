"""Training of a run: batches, steps, averaged weights, checkpoints."""

from guidebook.runs.run import Run


def train(run: Run) -> None:
    """Trains the run to its end, as `loop.train` does; where it is trained, nothing that computes is imported."""
    if not run.trained:
        from guidebook.training import loop

        loop.train(run)

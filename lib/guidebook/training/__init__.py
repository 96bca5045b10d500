"""Training of a run: batches, steps, averaged weights, checkpoints."""

from guidebook.runs.run import Run


def train(*runs: Run) -> None:
    """Trains runs to their ends, as `side_by_side.train` does; where all are trained, nothing that computes is imported."""
    if not all(run.trained for run in runs):
        from guidebook.training import side_by_side

        side_by_side.train(runs)

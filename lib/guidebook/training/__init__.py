"""The training step, its loop, checkpoints and averages of weights."""

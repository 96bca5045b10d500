"""One number of a training from its curves: how far its loss jumps about its trend, and how early it falls."""

from collections.abc import Sequence

import numpy as np


def losses(stats: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Images seen (m,) and training loss (m,), of the lines of `stats.jsonl` that are means of as many steps as the others.

    A line that a checkpoint cut short is a mean of few steps: noise.
    """
    seen, loss = (np.array([line[key] for line in stats], float) for key in ("nimg", "loss"))
    span = np.diff(seen, prepend=0)
    full = span >= span.max(initial=0) / 2
    return seen[full], loss[full]


# s² = Σ (y_{i−1} − 2 y_i + y_{i+1})² / (6 (m − 2)), y = log value   (Gasser, Sroka and Jennen-Steinmetz 1986, values evenly spaced)
def roughness(values: Sequence[float]) -> float | None:
    """Standard deviation s of m positive values about their trend, as a share of their level; None of fewer than three.

    Second differences are nothing on a straight line, so that no trend has to be fitted.
    """
    y = np.log(values)
    return float(np.sqrt(np.square(np.diff(y, 2)).mean() / 6)) if len(y) > 2 else None


# s_k² = Σ_i (y_ki − ȳ_i)² / m, y = log value, ȳ_i the mean over trainings
def apart(curves: Sequence[Sequence[float]]) -> list[float]:
    """Distance of each of several trainings from their mean, moment by moment, as a share of the level: of (K, m) positive values, (K,)."""
    y = np.log(curves)
    return np.sqrt(np.square(y - y.mean(0)).mean(1)).tolist()


def early(seen: Sequence[float], loss: Sequence[float], share: float = 0.25) -> float | None:
    """The part of a loss's whole fall, from its first value to the mean of its last tenth, that is done after a share of the training.

    There the loss is a mean, too, of a tenth of the training around that share. None where one of them holds no value, or the
    loss does not fall.
    """
    seen, loss = np.asarray(seen, float), np.asarray(loss, float)
    if not len(loss):
        return None
    at = seen / seen[-1]
    then, last = loss[np.abs(at - share) <= 0.05], loss[at > 0.9]
    whole = loss[0] - last.mean()
    return float((loss[0] - then.mean()) / whole) if len(then) and whole > 0 else None

"""`python -m bench.coverage`: how often each interval holds what it should, by simulation; writes `book/results/coverage.json`.

Features are Gaussians about ten class means, and samples are drawn in every class as often, as the study's are. What an interval should
hold is the mean of its statistic over all sets that were drawn, where no closed form gives it.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import numpy as np
from tqdm import tqdm

from guidebook.config.paths import RESULTS
from guidebook.metrics.difference import difference
from guidebook.metrics.frechet import frechet_to, gaussian
from guidebook.metrics.intervals import Interval, mean, share
from guidebook.metrics.kernel import kernel_distance
from guidebook.metrics.manifold import manifold
from guidebook.metrics.scores import diversity
from guidebook.metrics.subject import packed
from guidebook.runs.run import write

FILE, REPETITIONS = RESULTS / "coverage.json", 1000
CLASSES, N, WIDTH = 10, 500, 8
LABELS = np.arange(N) % CLASSES
CENTRES = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
MODELS = {"a perfect model": (0.0, 1.0), "a good model": (0.2, 0.9), "a bad model": (1.0, 0.6)}  # shift, scale
Trial = Callable[[np.random.Generator], tuple[float, float, float]]  # draws anew: value, low, high


def features(
    rng: np.random.Generator, model: str = "a perfect model", labels: np.ndarray = LABELS, noise=None
) -> np.ndarray:
    """Features (n, D) of samples, or of real images where the labels are drawn; `noise` (n, D) where it is shared."""
    shift, scale = MODELS[model]
    noise = rng.normal(size=(len(labels), WIDTH)) if noise is None else noise
    return CENTRES[labels] + shift + scale * noise


def real(rng: np.random.Generator, n: int = N) -> np.ndarray:
    return features(rng, labels=rng.integers(CLASSES, size=n))


REFERENCE = gaussian(real(np.random.default_rng(1), 20_000))
SOME = real(np.random.default_rng(2))  # the real images that recall and the like are measured against


def record(value: Interval, training: int = 0, paired: bool = True, metric: str = "simulated") -> dict:
    """A metric record; without its influences it is compared unpaired."""
    known = {"metric": metric, "n": N, "extractor": "none", "reference": None, "guidance": 1.0, "draw": {"n": N}}
    middle, low, high = value
    each = {"influence": packed(value.each)} if paired else {}
    return known | {"value": middle, "low": low, "high": high, "training": training} | each


def shares(rng: np.random.Generator, odds: tuple, alike: float) -> list[Interval]:
    """Shares of images that are right, in sets that agree in so many of them as far as they share their noise."""
    common, which = rng.random(N), rng.random(N) < alike
    return [share(np.where(which, common, rng.random(N)) < p) for p in odds]


def single() -> Iterable[tuple[str, str, Trial, float | None]]:
    """(statistic, of what, a trial, what its interval should hold, None for the mean) of one set each."""
    odds = np.linspace(0.5, 1, CLASSES)
    yield "adherence", "classes read rightly in 50 to 100 %", lambda r: share(r.random(N) < odds[LABELS]), 0.75
    yield "grain, confidence, …", "a skewed distribution", lambda r: mean(r.exponential(size=N)), 1.0
    yield "diversity", "", lambda r: diversity(features(r), LABELS), None
    yield "Fréchet distance", "real images", lambda r: frechet_to(real(r), REFERENCE), None
    for model in MODELS:
        yield "Fréchet distance", model, lambda r, m=model: frechet_to(features(r, m), REFERENCE, LABELS), None
    for model in MODELS:
        yield "kernel distance", model, lambda r, m=model: kernel_distance(features(r, m), real(r), LABELS), None
    for measure in ("precision", "recall", "density", "coverage"):
        yield measure, "a good model", lambda r, m=measure: manifold(features(r, "a good model"), SOME)[m][0], None


def paired(rng: np.random.Generator, way: str, effect: float) -> tuple[Interval, Interval]:
    """Two statistics of sets of the same seeds."""
    if way == "adherence":
        first, second = shares(rng, (0.6 + effect, 0.6), 0.7)
    elif way == "Fréchet distance":
        noise = rng.normal(size=(3, N, WIDTH))
        sets = ((noise[0] + x) / 2**0.5 for x in noise[1:])
        models = ("a bad model" if effect else "a good model", "a good model")
        first, second = (
            frechet_to(features(rng, m, noise=x), REFERENCE, LABELS) for m, x in zip(models, sets, strict=True)
        )
    else:
        common = rng.normal(size=N)
        first, second = (mean(e + common + rng.normal(size=N)) for e in (effect, 0.0))
    return first, second


def trainings(rng: np.random.Generator, spread: float, keeps: bool, count: int = 3) -> tuple[list[dict], list[dict]]:
    """Records of trainings of two kinds, alike but for their seeds, whose values spread so far."""
    common, kinds = rng.normal(size=(3, N)), ([], [])
    for seed in range(count):
        for kind, own in zip(kinds, common, strict=False):
            values = spread * rng.normal() + (common[2] + own) / 2 + rng.normal(size=N)
            kind.append(record(mean(values), seed, keeps))
    return kinds


def differences() -> Iterable[tuple[str, str, Trial, float | None]]:
    """The same of the difference of two sets, or of two kinds of trainings."""
    for way, effect in (
        ("adherence", 0.1),
        ("grain, confidence, …", 0.1),
        ("Fréchet distance", 0.0),
        ("Fréchet distance", 1.0),
    ):
        for keeps, name in ((True, "image by image"), (False, "by their intervals")):
            of = f"{name}, {'different' if effect else 'equal'} models"
            known = None if way == "Fréchet distance" else effect

            def trial(rng, way=way, effect=effect, keeps=keeps):
                first, second = paired(rng, way, effect)
                second = second if keeps else paired(rng, way, effect)[1]  # of seeds of its own
                return difference(record(first, paired=keeps), record(second, paired=keeps)).interval()

            yield f"difference: {way}", of, trial, known
    for spread, far in ((0.0, "alike"), (0.1, "a little apart"), (1.0, "far apart")):
        for keeps, name in ((True, "image by image"), (False, "by their intervals")):
            of = f"3 trainings of each, {far}, {name}"

            def trial(rng, spread=spread, keeps=keeps):
                return difference(*trainings(rng, spread, keeps)).interval()

            yield "difference: grain, confidence, …", of, trial, 0.0


def covered(trial: Trial, truth: float | None, repetitions: int, seed: int = 0) -> dict:
    """The share of intervals that hold the truth, and the standard error that they state over the scatter of values."""
    rng = np.random.default_rng(seed)
    value, low, high = np.array([tuple(trial(rng)) for _ in range(repetitions)]).T
    truth = value.mean() if truth is None else truth
    inside = float(np.mean((low <= truth) & (truth <= high)))
    return {"truth": float(truth), "coverage": inside, "width": float(np.mean(high - low) / 3.92 / value.std())}


def rows(repetitions: int) -> list[dict]:
    trials = [*single(), *differences()]
    found = []
    for what, of, trial, truth in tqdm(trials, "coverage", unit="interval", mininterval=5):
        found.append({"what": what, "of": of} | covered(trial, truth, repetitions))
    return found


def main() -> None:
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "repetitions": REPETITIONS, "n": N, "width": WIDTH}
    write(FILE, json.dumps({"made": made, "rows": rows(REPETITIONS)}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Sampling at equal quality: fewer steps and guided intervals against a pipeline of 50 guided steps.

Nothing is chosen here but by its numbers: every solver of the params, at the pipeline's scale and by every interval of the params,
is drawn and measured as in the experiment. The ratio is that of the fastest whose `fd_judge` is within the pipeline's interval or
below it.
"""

import statistics
from collections.abc import Callable

import torch

from bench import measuring
from bench.sample import ours, piped, timed, usual
from guidebook.config import params as P
from guidebook.config.schema import Guidance, Solver
from guidebook.metrics.measure import measure
from guidebook.runs.run import Run, find
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import ImageSet

Candidate = tuple[Solver, Guidance]
PIPELINES = ("pipeline, fp32", "pipeline, bf16")


def quality(
    say: Callable[[str], None],
    params: P.Params | None = None,
    repeats: int = 5,
    batch: int = 32,
    run: Run | None = None,  # trained; None: the newest of the params
    n: int | None = None,  # samples a distance rests on; None: as many as the params evaluate, at most 5,000
) -> dict:
    """Images per second of the pipeline and of every candidate as good as it, with the trained weights.

    The pipeline has the scale above 1 at which its own `fd_judge` is lowest. Raises ParamsError where there is no trained run.
    """
    if run is None:
        params = measuring.chosen(params)
        run = find(params.experiment, params.profile)
    run.needs("the model")
    solver, n = usual(run.params.objective), n or min(5000, run.params.evaluate.samples)
    peers = {w: judged(run, (solver, Guidance(w=w)), n) for w in run.params.sample.guidance if w > 1}
    w = min(peers, key=lambda w: peers[w][1]["value"])
    bar = peers[w][1]
    say(f"pipeline: fd_judge {bar['value']:.2f} [{bar['low']:.2f}, {bar['high']:.2f}] at w = {w:g}")
    tried = [(candidate, judged(run, candidate, n)) for candidate in candidates(run.params, w)]
    for candidate, (_, fd) in tried:
        say(f"{called(candidate)}: fd_judge {fd['value']:.2f}")
    good = [c for c, (_, fd) in tried if as_good(fd, bar)]
    speeds = measuring.alternate(_blocks(run, solver, w, good, batch), repeats)
    rows = [_row(name, (solver, Guidance(w=w)), peers[w], speeds) for name in PIPELINES]
    rows += [_row(called(c), c, both, speeds) for c, both in [((solver, Guidance(w=w)), peers[w]), *tried]]
    found = measuring.report(
        "quality", run.params, rows, _ratios(speeds, solver, w, good), batch=batch, run=run.path.name
    )
    measuring.tell(say, found)
    return found


def candidates(params: P.Params, w: float) -> list[Candidate]:
    """What may be faster: every solver with fewer steps than the pipeline's, guided at its scale or in an interval."""
    solvers = dict.fromkeys(
        Solver(**s.model_dump(include=set(Solver.model_fields))) for s in (params.sample, *params.sample.solvers)
    )
    fewer = [s for s in solvers if s.steps < usual(params.objective).steps]
    intervals = [way for m in params.sample.methods if m.between and not m.against for way in m.each()]
    return [(s, way) for s in fewer for way in [Guidance(w=w), *intervals]]


def judged(run: Run, candidate: Candidate, n: int) -> tuple[ImageSet, dict]:
    """The candidate's set of samples, and its `fd_judge`."""
    solver, guidance = candidate
    images = draw(run, guidance, n, solver=solver)
    return images, next(r for r in measure(run, images) if r["metric"] == "fd_judge")


def as_good(record: dict, bar: dict) -> bool:
    """Whether a distance is not shown to be worse than the pipeline's: within its interval, or below it."""
    return record["value"] <= bar["high"]


def called(candidate: Candidate) -> str:
    solver, guidance = candidate
    words = [f"library, {solver.sampler}, {solver.steps} steps", f"w = {guidance.w:g}"]
    if guidance.between:
        words.append("interval {:g} < σ ≤ {:g}".format(*guidance.between))
    words += [solver.spacing] if solver.spacing != "leading" else []
    return ", ".join([*words, f"eta {solver.eta:g}"] if solver.eta else words)


def _blocks(run: Run, solver: Solver, w: float, good: list[Candidate], batch: int) -> dict[str, Callable[[], float]]:
    weights, index = run.params.sample.weights, torch.arange(batch)
    ways = {
        PIPELINES[0]: piped(run, weights, w, solver, torch.float32),
        PIPELINES[1]: piped(run, weights, w, solver, torch.bfloat16),
    }
    for candidate in [(solver, Guidance(w=w)), *good]:
        ways[called(candidate)] = ours(run, weights, candidate[1], candidate[0])
    for way in ways.values():
        way(index)  # warms up
    return {name: timed(way, index) for name, way in ways.items()}


def _ratios(speeds: dict[str, list[float]], solver: Solver, w: float, good: list[Candidate]) -> list[dict]:
    fp32, bf16 = (speeds[name] for name in PIPELINES)
    same = called((solver, Guidance(w=w)))
    found = [measuring.ratio("library alone", speeds[same], fp32, f"{same} / {PIPELINES[0]}: as the params compute")]
    if good:
        best = max((called(c) for c in good), key=lambda name: statistics.median(speeds[name]))
        found += [
            measuring.ratio(
                "sampling, equal quality", speeds[best], fp32, f"{best} / {PIPELINES[0]}: fd_judge in its interval"
            ),
            measuring.ratio("sampling, equal quality, bf16", speeds[best], bf16, f"{best} / {PIPELINES[1]}: the same"),
            measuring.ratio(
                "fewer evaluations", speeds[best], speeds[same], f"{best} / {same}: by solver and interval alone"
            ),
        ]
    return found


def _row(name: str, candidate: Candidate, both: tuple[ImageSet, dict], speeds: dict[str, list[float]]) -> dict:
    (solver, guidance), (images, record) = candidate, both
    return {
        "name": name, "speed": measuring.spread(speeds[name]) if name in speeds else None, "speeds": speeds.get(name),
        "sampler": solver.sampler, "steps": solver.steps, "guidance": guidance.w, "method": guidance.between and "interval",
        "settings": guidance.model_dump(mode="json", exclude_defaults=True), "evaluations": images.facts.get("evaluations"),
        "fd_judge": {k: record[k] for k in ("value", "low", "high", "n")},
    }  # fmt: skip

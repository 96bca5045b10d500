"""Sampling at equal quality: fewer steps and guided intervals against a pipeline of 50 guided steps.

Nothing is chosen here but by its numbers: every solver of the params, at the pipeline's scale and by every interval of the params,
is drawn and measured as in the experiment. The ratio is that of the fastest whose `fd_judge` is within the pipeline's interval or
below it.
"""

import statistics

import torch

from bench import measuring
from bench.sample import PRECISIONS, Drawing, difference, ours, piped, timed, usual
from guidebook.config.params import Params
from guidebook.config.sampling import Guidance, Solver
from guidebook.metrics.measure import measure
from guidebook.runs.run import Run, find
from guidebook.runtime.precision import native_bf16
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import ImageSet

Candidate = tuple[Solver, Guidance]
FP32, BF16 = "pipeline, fp32", "pipeline, bf16"


def quality(params: Params, repeats: int = 5, batch: int = 32, run: Run | None = None) -> dict:
    """Images per second of the pipeline and of every candidate as good as it, with the trained weights of the newest run.

    The pipeline has the scale above 1 at which its own `fd_judge` is lowest. Raises ParamsError where there is no trained run.
    """
    run = run or find(params.experiment, params.profile)
    run.needs("the model")
    solver, n = usual(run.params), min(5000, run.params.evaluate.samples)
    peers = {w: judged(run, (solver, Guidance(w=w)), n) for w in run.params.sample.guidance if w > 1}
    w = min(peers, key=lambda w: peers[w][1]["value"])
    peer, bar = (solver, Guidance(w=w)), peers[w][1]
    print(f"pipeline: fd_judge {bar['value']:.2f} [{bar['low']:.2f}, {bar['high']:.2f}] at w = {w:g}")
    tried = [(peer, peers[w]), *((candidate, judged(run, candidate, n)) for candidate in candidates(run.params, w))]
    for candidate, (_, fd) in tried:
        print(f"{called(candidate)}: fd_judge {fd['value']:.2f}")
    # As good: within the pipeline's interval, or below it
    good = [c for c, (_, fd) in tried[1:] if fd["value"] <= bar["high"]]
    ways, index = _ways(run, peer, good), torch.arange(batch)
    images = {name: way(index) for name, way in ways.items()}  # warms up, too
    speeds = measuring.alternate({name: timed(way, index) for name, way in ways.items()}, repeats)
    rows = [_row(name, peer, peers[w], speeds) for name in ways if name.startswith("pipeline")]
    rows += [_row(called(c), c, both, speeds) for c, both in tried]
    same, pairs = called(peer), [("library alone", called(peer), FP32, "as the params compute")]
    if good:
        best = max(map(called, good), key=lambda name: statistics.median(speeds[name]))
        pairs += [
            ("sampling, equal quality", best, FP32, "fd_judge in its interval"),
            *[("sampling, equal quality, bf16", best, BF16, "the same")] * (BF16 in ways),
            ("fewer evaluations", best, same, "by solver and interval alone"),
        ]
    facts = {"batch": batch, "run": run.path.name, "max_difference": difference(images[FP32], images[same])}
    return measuring.report("quality", run.params, rows, measuring.ratios(speeds, pairs), **facts)


def candidates(params: Params, w: float) -> list[Candidate]:
    """What may be faster: every solver with fewer steps than the pipeline's, guided at its scale or in an interval."""
    own = (params.sample, *params.sample.solvers)
    solvers = dict.fromkeys(Solver(**s.model_dump(include=set(Solver.model_fields))) for s in own)
    intervals = [way for m in params.sample.methods if m.between and not m.against for way, _ in m.each()]
    fewer = [s for s in solvers if s.steps < usual(params).steps]
    return [(s, way) for s in fewer for way in [Guidance(w=w), *intervals]]


def judged(run: Run, candidate: Candidate, n: int) -> tuple[ImageSet, dict]:
    """The candidate's set of samples, and its `fd_judge`."""
    solver, guidance = candidate
    images = draw(run, guidance, n, solver=solver)
    return images, next(r for r in measure(run, images) if r["metric"] == "fd_judge")


def called(candidate: Candidate) -> str:
    solver, guidance = candidate
    words = [f"library, {solver.sampler}, {solver.steps} steps", f"w = {guidance.w:g}"]
    if guidance.between:
        words.append("interval {:g} < σ ≤ {:g}".format(*guidance.between))
    words += [solver.spacing] if solver.spacing != "leading" else []
    return ", ".join([*words, f"eta {solver.eta:g}"] if solver.eta else words)


def _ways(run: Run, peer: Candidate, good: list[Candidate]) -> dict[str, Drawing]:
    weights, (solver, w), precisions = run.params.sample.weights, (peer[0], peer[1].w), PRECISIONS[: 1 + native_bf16()]
    ways = {f"pipeline, {name}": piped(run, weights, w, solver, dtype) for name, dtype in precisions}
    return ways | {called(c): ours(run, weights, c[1], c[0]) for c in [peer, *good]}


def _row(name: str, candidate: Candidate, both: tuple[ImageSet, dict], speeds: dict[str, list[float]]) -> dict:
    (solver, guidance), (images, record) = candidate, both
    return {
        "name": name, "speed": measuring.spread(speeds[name]) if name in speeds else None, "speeds": speeds.get(name),
        "sampler": solver.sampler, "steps": solver.steps, "guidance": guidance.w, "method": guidance.between and "interval",
        "settings": guidance.model_dump(mode="json", exclude_defaults=True), "evaluations": images.facts.get("evaluations"),
        "fd_judge": {k: record[k] for k in ("value", "low", "high", "n")},
    }  # fmt: skip

"""The time of a training step as its batch grows."""

import statistics
import time

import yaml

from bench import measuring
from bench.apart import apart
from guidebook.config.params import Params, check
from guidebook.data.images import load
from guidebook.runs.resolved import resolved
from guidebook.training.step import prepared

SIZES = (0.5, 1, 2)  # of the parameters' batch; the thesis compares one with another four times as large
SECONDS = 4.0  # of one turn, at least


def batch(params: Params, repeats: int = 3) -> dict:
    """Time of a step and memory at each batch size; each in a process of its own, in turns."""
    params = resolved(params)
    data = load(params.data)
    getattr(data, "decoded", None)  # of a streamed set: what is compared are later epochs
    sizes = [max(1, int(share * params.train.batch)) for share in SIZES]
    turns = {n: lambda n=n: apart(_timed, params.yaml(), n, watched=False)["step_s"] for n in sizes}
    steps = measuring.alternate(turns, repeats)
    held = {n: apart(_timed, params.yaml(), n) for n in sizes}
    rows = [
        {
            "name": f"batch {n}", "speed": measuring.spread([n / t for t in times]), "batch": n,
            "step_s": measuring.spread(times), "memory_mb": held[n]["device_mb"] or held[n]["memory_mb"],
            "epoch_s": len(data.train) / n * statistics.median(times), "steps_per_epoch": len(data.train) // n,
            "ms_by_part": held[n]["ms_by_part"],
        }
        for n, times in steps.items()
    ]  # fmt: skip
    ratio = measuring.ratio("step", steps[sizes[-1]], steps[sizes[0]], f"batch {sizes[-1]} / batch {sizes[0]}")
    return measuring.report("batch", params, rows, [ratio])


def _timed(text: str, size: int) -> dict:
    params = check(yaml.safe_load(text), "the bench").replace(train={"batch": size, "processes": 1})
    trainer = prepared(params)
    for _ in range(3):
        trainer.step()
    trainer.flush()
    measuring.wait()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        trainer.step()
        steps += 1
        if steps % 10 == 0:
            measuring.wait()
    line = trainer.flush()
    spent = (time.perf_counter() - started) / steps
    return {"step_s": spent, "ms_by_part": line["ms_by_part"], "device_mb": measuring.device_mb()}

"""What a training step costs as its batch grows."""

import statistics
import time
from collections.abc import Callable

import torch

from bench import measuring
from bench.apart import apart
from guidebook.config import params as P
from guidebook.data.images import load
from guidebook.training.step import prepared

SIZES = (0.5, 1, 2)  # of the parameters' batch; the thesis compares one with another four times as large
SECONDS = 4.0  # of one turn, at least


def batch(say: Callable[[str], None], params: P.Params | None = None, repeats: int = 3) -> dict:
    """Time of a step, by its parts, and memory at each batch size; each in a process of its own, in turns."""
    params = measuring.chosen(params or P.load("wikiart", "demo"))
    data = load(params.data)
    getattr(data, "decoded", None)  # of a streamed set: what is compared are later epochs
    sizes = [max(1, int(share * params.train.batch)) for share in SIZES]
    turns = {size: lambda size=size: apart(_timed, params.yaml(), size, watched=False) for size in sizes}
    found = measuring.alternate(turns, repeats)
    held = {size: apart(_timed, params.yaml(), size) for size in sizes}
    rows = [
        {
            "name": f"batch {size}", "speed": measuring.spread([size / t["step_s"] for t in values]), "batch": size,
            "step_s": measuring.spread([t["step_s"] for t in values]),
            "memory_mb": held[size]["device_mb"] or held[size]["memory_mb"],
            "epoch_s": len(data.train) / size * statistics.median(t["step_s"] for t in values),
            "steps_per_epoch": len(data.train) // size, "ms_by_part": values[0]["ms_by_part"],
        }
        for size, values in found.items()
    ]  # fmt: skip
    steps = {size: [t["step_s"] for t in values] for size, values in found.items()}
    ratios = [measuring.ratio("step", steps[sizes[-1]], steps[sizes[0]], f"batch {sizes[-1]} / batch {sizes[0]}")]
    report = measuring.report("batch", params, rows, ratios)
    measuring.tell(say, report)
    return report


def _timed(text: str, size: int) -> dict:
    import yaml

    params = P.check(yaml.safe_load(text), "the bench").replace(train={"batch": size, "processes": 1})
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
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"step_s": spent, "ms_by_part": line["ms_by_part"], "device_mb": device}

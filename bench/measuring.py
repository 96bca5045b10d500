"""Measuring things that take turns, and the JSON that says what came of it."""

import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import diffusers
import torch

from guidebook.config import params as P
from guidebook.report.performance import FOLDER
from guidebook.runs.run import commit, resolved, write
from guidebook.runtime.distributed import world
from guidebook.training.loop import cpu_name

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # FLOP/s in bf16 without sparsity, from NVIDIA's data sheets


class Nowhere(io.TextIOBase):
    """Where progress bars are written in a bench: it takes all and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def chosen(params: P.Params | None) -> P.Params:
    """The parameters to measure: those given, else the CIFAR-10 setting that suits the device; with an encoder that is at hand."""
    params = params or P.load("cifar10", "best" if torch.cuda.is_available() else "demo")
    return resolved(params)


def wait() -> None:
    """Returns when the device has done all it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(blocks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each block returns, `repeats` times. They take turns, every other turn backwards, so that a drift meets all."""
    values: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(repeats):
        for name in list(blocks)[:: -1 if turn % 2 else 1]:
            values[name].append(blocks[name]())
    return values


def spread(values: list[float]) -> dict:
    """Median and range of repeats."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(name: str, above: list[float], below: list[float], what: str) -> dict:
    """The quotient of two medians, with the least and the largest quotient of one turn: of any two where one had fewer turns."""
    alike = len(above) == len(below)
    turns = [a / b for a, b in (zip(above, below, strict=True) if alike else itertools.product(above, below))]
    value, repeats = statistics.median(above) / statistics.median(below), min(len(above), len(below))
    return {"name": name, "value": value, "low": min(turns), "high": max(turns), "repeats": repeats, "what": what}


def device_name() -> str:
    return torch.cuda.get_device_name(world().device) if torch.cuda.is_available() else cpu_name()


def peak_flops(seconds: float = 0.5) -> tuple[float | None, str]:
    """(FLOP/s the device can do at most, how that is known).

    On a GPU the data sheet's for bf16, None where the GPU is not in the table; on a CPU what the faster of a large fp32 and bf16
    matrix product reaches here and now.
    """
    if torch.cuda.is_available():
        known = next((k for k in PEAK if k in device_name()), None)
        return PEAK.get(known), "data sheet, bf16 without sparsity"
    return max(_product(dtype, seconds) for dtype in (torch.float32, torch.bfloat16)), "measured, matrix product"


def _product(dtype: torch.dtype, seconds: float, size: int = 1024) -> float:
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    a @ b  # warms up
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def report(name: str, params: P.Params, rows: list[dict], ratios: list[dict], **facts) -> dict:
    """What a bench found, with all that its numbers depend on."""
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **commit()}
    made |= {"torch": torch.__version__, "diffusers": diffusers.__version__}
    made |= {"device": device_name(), "kind": world().device.type, "cores": torch.get_num_threads()}
    made |= {"experiment": params.experiment, "profile": params.profile, "data": params.data.name}
    return {"bench": name, "made": made | facts, "rows": rows, "ratios": ratios}


def keep(found: dict) -> Path | None:
    """Writes a report to `book/results/bench/`; None where the library was not started from a checkout."""
    if not FOLDER.parents[1].is_dir():
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = found["made"]
    path = FOLDER / f"{found['bench']}-{made['experiment']}-{made['profile']}-{made['kind']}.json"
    write(path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def tell(say: Callable[[str], None], found: dict) -> None:
    """Says a report's rows and ratios in lines, and keeps it."""
    for row in found["rows"]:
        if value := row["speed"]:  # None: drawn and measured, but not timed
            say(f"{row['name']:48} {value['median']:10.2f} images/s  [{value['low']:.2f}, {value['high']:.2f}]")
    for r in found["ratios"]:
        say(f"{r['value']:6.2f} × [{r['low']:.2f}, {r['high']:.2f}]  {r['name']}: {r['what']}")
    if path := keep(found):
        say(f"written to {path}")

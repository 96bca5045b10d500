"""Measurements that take turns, and the JSON report of a bench."""

import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import diffusers
import torch

from guidebook.config.params import Params
from guidebook.report.performance import FOLDER
from guidebook.runs.run import commit, write
from guidebook.runtime.distributed import world
from guidebook.training.provenance import cpu_name

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # FLOP/s in bf16 without sparsity, from NVIDIA's data sheets


class Nowhere(io.TextIOBase):
    """The file of progress bars in a bench: it keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def wait() -> None:
    """Returns when the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object]) -> float:
    """Seconds of some work on the device."""
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def device_mb() -> float | None:
    """Peak memory of the GPU so far; None without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def alternate(blocks: Mapping, repeats: int) -> dict:
    """What each block returns, `repeats` times. They take turns, every other turn backwards, so that a drift meets all."""
    values = {name: [] for name in blocks}
    for turn in range(repeats):
        for name in list(blocks)[:: -1 if turn % 2 else 1]:
            values[name].append(blocks[name]())
    return values


def spread(values: Sequence[float]) -> dict:
    """Median and range of repeats."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(name: str, above: list[float], below: list[float], what: str) -> dict:
    """The quotient of two medians, with the least and the largest quotient of one turn: of any two where one had fewer turns."""
    alike = len(above) == len(below)
    turns = [a / b for a, b in (zip(above, below, strict=True) if alike else itertools.product(above, below))]
    value, repeats = statistics.median(above) / statistics.median(below), min(len(above), len(below))
    return {"name": name, "value": value, "low": min(turns), "high": max(turns), "repeats": repeats, "what": what}


def ratios(speeds: dict[str, list[float]], pairs: Sequence[tuple[str, str, str, str]]) -> list[dict]:
    """Ratios of rows, from (name, row above, row below, what it shows)."""
    return [ratio(name, speeds[a], speeds[b], f"{a} / {b}: {what}") for name, a, b, what in pairs]


def device_name() -> str:
    return torch.cuda.get_device_name(world().device) if torch.cuda.is_available() else cpu_name()


def peak_flops(seconds: float = 0.5) -> tuple[float | None, str]:
    """(most FLOP/s of the device, how that is known): on a GPU by its data sheet, None where it has none here; on a CPU measured."""
    if torch.cuda.is_available():
        known = next((k for k in PEAK if k in device_name()), None)
        return PEAK.get(known), "data sheet, bf16 without sparsity"
    return max(_product(dtype, seconds) for dtype in (torch.float32, torch.bfloat16)), "measured, matrix product"


def _product(dtype: torch.dtype, limit: float, size: int = 1024) -> float:
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    a @ b  # warms up
    best, end = 0.0, time.perf_counter() + limit
    while time.perf_counter() < end:
        best = max(best, 2 * size**3 / seconds(lambda: a @ b))
    return best


def report(name: str, params: Params, rows: list[dict], ratios: list[dict], **facts) -> dict:
    """Prints a bench's rows and ratios, and keeps them in `book/results/bench/` with all that they depend on."""
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **commit()}
    made |= {"torch": torch.__version__, "diffusers": diffusers.__version__}
    made |= {"device": device_name(), "kind": world().device.type, "cores": torch.get_num_threads()}
    made |= {"experiment": params.experiment, "profile": params.profile, "data": params.data.name} | facts
    found = {"bench": name, "made": made, "rows": rows, "ratios": ratios}
    for row in rows:
        if s := row["speed"]:  # None: drawn and measured, but not timed
            print(f"{row['name']:48} {s['median']:10.2f} images/s  [{s['low']:.2f}, {s['high']:.2f}]")
    for r in ratios:
        print(f"{r['value']:6.2f} × [{r['low']:.2f}, {r['high']:.2f}]  {r['name']}: {r['what']}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}-{made['experiment']}-{made['profile']}-{made['kind']}.json"
    write(path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(f"written to {path}")
    return found

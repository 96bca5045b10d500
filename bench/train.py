"""Training against the loop of diffusers' examples: the same U-Net, data, batch and device, one lever at a time."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bench import measuring
from bench.example import Example
from guidebook.config import params as P
from guidebook.data.images import Images, load
from guidebook.models.cost import cost
from guidebook.training.step import Trainer, prepared

LAYOUTS = (("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True))


@dataclass(frozen=True)
class Way:
    """One way to train. `encodes`: the captions of every batch go through the text encoder."""

    precision: str
    library: bool = False
    channels_last: bool = False
    compile: bool = False
    encodes: bool = False

    @property
    def name(self) -> str:
        words = [("library" if self.library else "example"), self.precision]
        words += ["channels last"] if self.channels_last else []
        words += ["compiled"] if self.compile else []
        words += ["captions encoded once"] if not (self.library or self.encodes) else []
        return ", ".join(words)


def ways(params: P.Params, compiled: bool) -> list[Way]:
    """The example's ways, then the library's, the one that the params ask for among them."""
    example = [Way(p, encodes=e) for p in ("fp32", "bf16") for e in (True, False)]
    layouts = [Way(p, library=True, channels_last=c) for p, c in LAYOUTS]
    more = [Way("bf16", library=True, channels_last=True, compile=True)] if compiled else []
    return list(dict.fromkeys([*example, *layouts, *more, own(params)]))


def own(params: P.Params) -> Way:
    t = params.train
    return Way(t.precision, library=True, channels_last=t.channels_last, compile=t.compile)


@dataclass
class Row:
    """A way that is set up, and what its first step showed."""

    way: Way
    trainer: Trainer | Example
    resident: int  # bytes on the GPU that are there between steps
    first: float  # seconds of the first step
    gradient: torch.Tensor | None  # of the library's first step, the same step for all of its ways
    steps: int = 0
    peaks: list[int] = field(default_factory=list)

    def block(self) -> float:
        """`steps` steps; images per second."""
        others = _reset_memory()
        speed = self._run(self.steps)
        self.peaks.append(_peak_memory() - others)
        return speed

    def _run(self, steps: int) -> float:
        images, started = 0, time.perf_counter()
        for _ in range(steps):
            images += self.trainer.step() or self.trainer.params.train.batch
        if self.way.library:
            self.trainer.flush()
        measuring.wait()
        return images / (time.perf_counter() - started)

    def warm(self, steps: int | None, seconds: float) -> None:
        """Warms up, and takes as many steps a block as last about `seconds` where `steps` says nothing."""
        started = time.perf_counter()
        self._run(2)
        self.steps = steps or max(2, round(2 * seconds / (time.perf_counter() - started)))


def train(
    say: Callable[[str], None],
    params: P.Params | None = None,
    repeats: int = 5,
    steps: int | None = None,  # of a block; None: as many as last some seconds
    compiled: bool = False,  # measure torch.compile as well, where the params do not ask for it anyway
) -> dict:
    """Images per second of every way to train, and what they are to each other. All stay in memory and take turns."""
    params = same_work(measuring.chosen(params))
    data, peak, known = load(params.data), *measuring.peak_flops()
    rows = {}
    for way in ways(params, compiled):
        rows[way] = set_up(way, params, data)
        rows[way].warm(steps, 3.0)
        say(f"ready: {way.name}")
    speeds = measuring.alternate({way: row.block for way, row in rows.items()}, repeats)
    work = 3 * 1e9 * cost(params).gflop  # the backward is twice the forward
    lines = [_line(row, speeds[way], rows, work / peak if peak else None) for way, row in rows.items()]
    facts = {"batch": params.train.batch, "gflops_forward": work / 3e9, "peak_flops": peak, "peak_known": known}
    found = measuring.report("train", params, lines, ratios(params, speeds), **facts)
    measuring.tell(say, found)
    return found


def same_work(params: P.Params) -> P.Params:
    """Both sides average the weights once, take a batch at once, and run in one process."""
    kept = [d for d in params.train.ema if f"ema-{d}" == params.sample.weights][:1]
    return params.replace(train={"ema": kept, "micro_batch": None, "processes": 1})


def set_up(way: Way, params: P.Params, data: Images) -> Row:
    """A trainer that has done its first step."""
    before = _reset_memory()
    if way.library:
        told = {"precision": way.precision, "channels_last": way.channels_last, "compile": way.compile}
        trainer = prepared(params.replace(train=told), data)
    else:
        trainer = Example(params, data, way.precision, way.encodes)
    started = time.perf_counter()  # compiling happens in the first step
    with watched(trainer.optimizer) as seen:
        trainer.step()
    measuring.wait()
    first = time.perf_counter() - started
    resident = torch.cuda.memory_allocated() - before if torch.cuda.is_available() else 0
    return Row(way, trainer, resident, first, seen[0] if way.library else None)


@contextlib.contextmanager
def watched(optimizer):
    """The gradients that an optimizer is given while this is open, each one flat vector on the CPU."""
    seen, plain = [], getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it

    def look(opt, args, kwargs):
        seen.append(torch.cat([w.grad.flatten().float().cpu() for g in opt.param_groups for w in g["params"]]))

    handle = plain.register_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def ratios(params: P.Params, speeds: dict[Way, list[float]]) -> list[dict]:
    """What the library gives in all, and each lever on its own."""
    mine, example = own(params), Way("fp32", encodes=True)
    strict = Way(mine.precision)
    plain, half, layout = (Way(p, library=True, channels_last=c) for p, c in LAYOUTS[:3])
    pairs = [
        ("training", mine, example, "the library as these params have it, against the example as it stands"),
        ("training, same precision", mine, strict, "the same, against an example in that precision that encodes once"),
        ("captions encoded once", Way("fp32"), example, "the example, against itself with an encoder in every step"),
        ("loop and data", plain, Way("fp32"), "both in fp32 with captions encoded once: what is left is the loop"),
        ("channels last", layout, plain, "the library, by memory layout alone"),
        ("bf16", half, plain, "the library, by precision alone"),
        ("bf16 for the example", Way("bf16"), Way("fp32"), "the example, by precision alone"),
    ]
    both, compiled = (Way("bf16", library=True, channels_last=True, compile=c) for c in (False, True))
    pairs += [("channels last, in bf16", both, half, "the library, by memory layout alone")]
    pairs += [("compiled", compiled, both, "the library, by torch.compile alone")] if compiled in speeds else []
    return [measuring.ratio(name, speeds[a], speeds[b], f"{a.name} / {b.name}: {what}") for name, a, b, what in pairs]


def _line(row: Row, speed: list[float], rows: dict[Way, Row], per_image: float | None) -> dict:
    reference, line = rows[Way("fp32", library=True)].gradient, measuring.spread(speed)
    error = None if row.gradient is None else ((row.gradient - reference).norm() / reference.norm()).item()
    return {
        "name": row.way.name, "loop": "library" if row.way.library else "example", "precision": row.way.precision,
        "channels_last": row.way.channels_last, "compiled": row.way.compile, "encodes": row.way.encodes,
        "speed": line, "speeds": speed, "steps": row.steps,
        "memory_mb": (max(row.peaks) + row.resident) / 2**20 if torch.cuda.is_available() else None,
        "share_of_peak": per_image and per_image * line["median"],
        "first_step_s": row.first, "gradient_error": error,
    }  # fmt: skip


def _reset_memory() -> int:
    """Bytes allocated on the GPU now, where the peak begins again."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0

"""Training against the loop of diffusers' examples: the same U-Net, data, batch and device, one lever at a time."""

import contextlib
import time
from dataclasses import dataclass, field, replace

import torch

from bench import measuring
from bench.example import Example
from bench.reduced import at_hand
from guidebook.config.params import Params
from guidebook.data.images import load
from guidebook.models.published import cost
from guidebook.runs.resolved import resolved
from guidebook.runtime.precision import native_bf16
from guidebook.training.step import Trainer, prepared


@dataclass(frozen=True)
class Way:
    """One way to train. `encodes`: captions, and images whose latents are learnt, go through their encoders in every step."""

    precision: str
    library: bool = False
    channels_last: bool = False
    compile: bool = False
    encodes: bool = False

    @property
    def name(self) -> str:
        words = [("library" if self.library else "example"), self.precision]
        words += ["channels last"] * self.channels_last + ["compiled"] * self.compile
        return ", ".join(words + ["encoded once"] * (not (self.library or self.encodes)))


EXAMPLE, EXAMPLE_ONCE, EXAMPLE_HALF = Way("fp32", encodes=True), Way("fp32"), Way("bf16")
PLAIN, HALF, LAYOUT, BOTH = (Way(p, True, last) for p, last in (("fp32", 0), ("bf16", 0), ("fp32", 1), ("bf16", 1)))


@dataclass
class Row:
    """A way that is set up, and the measurements of its steps."""

    way: Way
    trainer: Trainer | Example
    resident: int  # bytes on the GPU that are there between steps
    first: float  # seconds of the first step, in which the network is compiled
    gradient: torch.Tensor | None  # of the library's first step, the same step for all of its ways
    steps: int = 2
    peaks: list[int] = field(default_factory=list)

    def block(self) -> float:
        """`steps` steps; images per second."""
        others, images, started = _reset_memory(), 0, time.perf_counter()
        for _ in range(self.steps):
            images += self.trainer.step() or self.trainer.params.train.batch
        if self.way.library:
            self.trainer.flush()
        measuring.wait()
        speed = images / (time.perf_counter() - started)
        self.peaks.append(int((measuring.device_mb() or 0) * 2**20) - others)
        return speed


def train(params: Params, repeats: int = 5, steps: int | None = None, compiled: bool = True) -> dict:
    """Images per second of every way to train, and their ratios. All stay in memory and take turns; `steps` None: some seconds' worth.
    Without `compiled` none is compiled that the params do not compile."""
    params = resolved(at_hand(params))
    # Both sides average the weights once, take a batch at once, keep their activations, and run in one process.
    kept = [d for d in params.train.ema if f"ema-{d}" == params.sample.weights][:1]
    alike = {"ema": kept, "micro_batch": None, "gradient_checkpointing": False, "processes": 1}
    params = params.replace(train=alike)
    t, rows = params.train, {}
    mine = Way(t.precision, True, t.channels_last, t.compile)
    tried = [
        EXAMPLE,
        EXAMPLE_ONCE,
        Way("bf16", encodes=True),
        EXAMPLE_HALF,
        PLAIN,
        HALF,
        LAYOUT,
        BOTH,
        replace(mine, compile=False),
        mine,
        *([replace(mine, compile=True)] if compiled else []),
    ]
    half = t.precision == "bf16" or native_bf16()
    for way in dict.fromkeys(way for way in tried if half or way.precision == "fp32"):
        rows[way] = set_up(way, params)
        rows[way].steps = steps or max(2, round(3.0 / measuring.seconds(rows[way].block) * 2))
        print(f"ready: {way.name}")
    peak, known = measuring.peak_flops()
    speeds = measuring.alternate({way: row.block for way, row in rows.items()}, repeats)
    forward = cost(params).gflop
    share = 3e9 * forward / peak if peak else None  # of an image; the backward is twice the forward
    lines = [_line(row, speeds[way], rows[PLAIN].gradient, share) for way, row in rows.items()]
    pairs = [(name, a.name, b.name, what) for name, a, b, what in _pairs(mine) if {a, b} <= rows.keys()]
    ratios = measuring.ratios({way.name: values for way, values in speeds.items()}, pairs)
    facts = {"batch": t.batch, "gflops_forward": forward, "peak_flops": peak, "peak_known": known}
    return measuring.report("train", params, lines, ratios, **facts)


def _pairs(mine: Way) -> list[tuple[str, Way, Way, str]]:
    """What the library gives in all, and each lever on its own."""
    strict, plain, whole = Way(mine.precision), replace(mine, compile=False), replace(mine, compile=True)
    usual = replace(strict, encodes=True)
    return [
        ("training", mine, EXAMPLE, "the library as these params have it, against the example as it stands"),
        ("training, compiled", whole, EXAMPLE, "the library compiled, against the example as it stands"),
        ("training, example in the same precision", mine, usual, "the same, against the example in that precision"),
        ("training, same precision", mine, strict, "the same, against an example in that precision that encodes once"),
        ("encoded once", EXAMPLE_ONCE, EXAMPLE, "the example, against itself with its encoders in every step"),
        ("loop and data", PLAIN, EXAMPLE_ONCE, "both in fp32, encoded once: what is left is the loop"),
        ("channels last", LAYOUT, PLAIN, "the library, by memory layout alone"),
        ("bf16", HALF, PLAIN, "the library, by precision alone"),
        ("bf16 for the example", EXAMPLE_HALF, EXAMPLE_ONCE, "the example, by precision alone"),
        ("channels last, in bf16", BOTH, HALF, "the library, by memory layout alone"),
        ("compiled", whole, plain, "the library, by torch.compile alone"),
    ]


def set_up(way: Way, params: Params) -> Row:
    """A trainer that has done its first step."""
    before, data = _reset_memory(), load(params.data)
    if way.library:
        changes = {"precision": way.precision, "channels_last": bool(way.channels_last), "compile": way.compile}
        trainer = prepared(params.replace(train=changes), data)
    else:
        trainer = Example(params, data, way.precision, way.encodes)
    with watched(trainer.optimizer) as seen:
        first = measuring.seconds(trainer.step)
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


def _line(row: Row, speeds: list[float], reference: torch.Tensor, share: float | None) -> dict:
    error = None if row.gradient is None else ((row.gradient - reference).norm() / reference.norm()).item()
    line, gpu = measuring.spread(speeds), torch.cuda.is_available()
    return {
        "name": row.way.name, "speed": line, "speeds": speeds, "steps": row.steps, "first_step_s": row.first,
        "memory_mb": (max(row.peaks) + row.resident) / 2**20 if gpu else None,
        "share_of_peak": share and share * line["median"], "gradient_error": error,
    }  # fmt: skip


def _reset_memory() -> int:
    """Bytes allocated on the GPU now, where the peak begins again."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()

"""Time of the parts of a training step, and memory."""

import resource
import time

import torch

PARTS = (
    "data", "noise", "to device", "text", "caption dropout", "forward", "backward", "optimiser", "EMA", "statistics",
)  # fmt: skip


class Profiler:
    """Time by part of a step, between one mark and the next.

    On a GPU the marks are events in its queue, so a part counts as long as the device is busy with it or waits for it, and what
    happens while it works on something else is free, as it is for training. Nothing waits for the device before `flush`.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self._spare: list[torch.cuda.Event] = []

    def mark(self, part: str | None) -> None:
        """The end of a part of the step, which began at the last mark; None begins a step."""
        self._marks.append((part, self._now()))

    def flush(self) -> dict[str, float]:
        """Milliseconds of each part per step, the mean over the steps since the last call."""
        spent: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if part:
                lasted = before.elapsed_time(after) if self._cuda else 1000 * (after - before)
                spent[part] = spent.get(part, 0.0) + lasted
        steps = sum(part is None for part, _ in self._marks)
        self._spare += [moment for _, moment in self._marks] if self._cuda else []
        self._marks = []
        return {part: round(ms / steps, 4) for part, ms in spent.items()}

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def peak_memory() -> float:
    """Peak memory so far in MB: the device's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

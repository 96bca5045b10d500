"""Progress of long work: bars, which whoever started this process reads too; and stops on the way."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from guidebook.runs import preemption
from guidebook.runtime.distributed import alone

FILE = "GUIDEBOOK_PROGRESS"  # the environment's name of the file that says what is done at the moment
T = TypeVar("T")


def told(notebook: Path) -> Path:
    """The file that says what the kernel of a notebook does at the moment."""
    return notebook.with_name(f".{notebook.name}.now")


def tell(text: str) -> None:
    """Says what is done at the moment, to whoever named a file for it."""
    if file := os.environ.get(FILE):
        with suppress(OSError):
            Path(file).write_text(text)


class Bar(tqdm):
    """A progress bar that tells what it shows, and the time left."""

    def __init__(self, items: Iterable | None = None, what: str = "", total: int | None = None, **kwargs: Any):
        super().__init__(items, what, total, mininterval=1, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        super().display(msg, pos)
        self._tell()

    def close(self) -> None:
        shown = not self.disable  # a bar is closed once more when it is collected
        super().close()
        if shown:
            tell("")

    def _tell(self) -> None:
        done, seconds = self.n - self.initial, self.format_dict["elapsed"]
        text = f"{self.desc}, {self.n:,} of {self.total:,} {self.unit}s" if self.total else self.desc
        if done and self.total and seconds > 0:
            rate = done / seconds
            text += (f", {rate:,.0f}/s" if rate >= 1 else "") + f", {clock((self.total - self.n) / rate)} left"
        tell(text)


def measured(items: Iterable[T], what: str, unit: str) -> Iterator[T]:
    """Items with a bar. Between them a stop is obeyed: nothing is kept of such work before it is whole. Raises Preempted."""
    for item in Bar(items, what, unit=unit, delay=2, leave=False):
        if alone() and (stop := preemption.current()).asked():
            stop.obey(what)
        yield item


def clock(seconds: float) -> str:
    """`42 s`, `3:05` or `2:03:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}" if minutes else f"{rest} s"

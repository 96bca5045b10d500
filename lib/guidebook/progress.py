"""What a person sees while a notebook runs: cells done, images seen, speed and time left."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guidebook.run import Run

QUIET = 30  # seconds between lines where the output is not a terminal


@contextmanager
def watching(name: str) -> Iterator[Callable[[Run, Path], None]]:
    """Gives a function to call about once a second with the run and its partial notebook."""
    from rich.console import Console

    console, started, last = Console(stderr=True), time.monotonic(), [time.monotonic()]
    status = console.status(f"{name}: starting") if console.is_terminal else None

    def watch(run: Run, partial: Path) -> None:
        text = f"{name} {time.monotonic() - started:4.0f} s: {_line(run, partial)}"
        if status:
            status.update(text)
        elif time.monotonic() - last[0] > QUIET:
            last[0] = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    if status:
        with status:
            yield watch
    else:
        yield watch


def _line(run: Run, partial: Path) -> str:
    from guidebook.notebook import progress

    done, cells = progress(partial)
    text = f"cell {done + 1} of {cells}" if done < cells else "starting"
    folders = [
        f
        for f in (run.path, *run.path.glob("variants/*"))
        if (f / "stats.jsonl").exists() and not (f / "model").exists()
    ]
    for folder in folders[:1]:
        from guidebook.training import updates

        row = _last(folder / "stats.jsonl")
        if row:
            total = updates(run.params) * run.params.train.batch
            left = (total - row["nimg"]) / row["images_per_s"]
            text += f", training {row['nimg']:,} of {total:,} images, {row['images_per_s']:,.0f}/s, {left:.0f} s left"
    return text


def _last(stats: Path) -> dict | None:
    lines = stats.read_text().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None

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


def status_table(rows: list[dict]):
    """The table of `guidebook status`."""
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return "no runs yet: guidebook run mnist"
    table = Table("run", "seed", "state", "job", "images seen", "images/s", "left", "loss", "best adherence", box=None)
    for row in rows:
        seen = f"{row['images seen']:,} of {row['of']:,}" if "of" in row else ""
        job = f"{row['job']} {row['job state']}, {row['job time left']} to its limit" if row["job"] else ""
        left, loss = row.get("seconds left"), row.get("loss")
        table.add_row(
            escape(row["run"]), str(row.get("seed", "")), row["state"], job, seen, f"{row['images/s']:,}" if row.get("images/s") else "",
            "" if left is None else clock(left), "" if loss is None else f"{loss:.4f}", row.get("best adherence") or "",
        )  # fmt: skip
    return table


def clock(seconds: float) -> str:
    """`42 s`, `3:05` or `2:03:05`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
        from guidebook.schedule import updates

        row = _last(folder / "stats.jsonl")
        if row:
            total = updates(run.params) * run.params.train.batch
            left = (total - row["nimg"]) / row["images_per_s"]
            text += f", training {row['nimg']:,} of {total:,} images, {row['images_per_s']:,.0f}/s, {clock(left)} left"
    return text


def _last(stats: Path) -> dict | None:
    lines = stats.read_text().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None

"""What a person sees while a notebook runs: cells done, images seen, speed and time left."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guidebook.runs.run import Run

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
    lines = [_cells(row) for row in rows]
    shown = [name for name in lines[0] if any(line[name] for line in lines)]
    table = Table(box=None)
    for name in shown:  # a name or a key cut short would name nothing
        table.add_column(name, no_wrap=name in ("run", "key", "state"), overflow="fold")
    for line in lines:
        table.add_row(*(escape(line[name]) for name in shown))
    return table


def _cells(row: dict) -> dict[str, str]:
    """One line of the table: a column's name and what stands in it."""
    key = re.search(r"-([0-9a-f]{8})(/variants/|$)", row["folder"])
    cells = {
        "run": row["run"],
        "key": key[1] if key else "",  # of the folder runs/<run>-<key>; a record has none
        "seed": str(row.get("seed", "")),
        "state": row["state"],
        "job": f"{row['job']} {row['job state']}, {row['job time left']} to its limit" if row["job"] else "",
        "images seen": f"{row['images seen']:,}" if "of" in row else "",
        "images/s": "", "left": "", "loss": "",
        "best adherence": (row.get("best adherence") or "").partition(", n =")[0],
    }  # fmt: skip
    if row["state"] not in ("recorded", "complete") and "of" in row:  # how far it is
        cells["images seen"] += f" of {row['of']:,}"
        cells["images/s"] = f"{row['images/s']:,}" if row["images/s"] else ""
        cells["left"] = "" if row["seconds left"] is None else clock(row["seconds left"])
        cells["loss"] = "" if row["loss"] is None else f"{row['loss']:.4f}"
    return cells


def clock(seconds: float) -> str:
    """`42 s`, `3:05` or `2:03:05`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _line(run: Run, partial: Path) -> str:
    from guidebook.book.notebook import progress

    done, cells = progress(partial)
    text = f"cell {done + 1} of {cells}" if done < cells else "starting"
    folders = [
        f
        for f in (run.path, *run.path.glob("variants/*"))
        if (f / "stats.jsonl").exists() and not (f / "model").exists()
    ]
    for folder in folders[:1]:
        from guidebook.config.budget import updates

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

"""Progress of a notebook that runs: cells done, images seen, speed and time left; and the table of `guidebook status`."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from guidebook.book import status
from guidebook.book.notebook import partial
from guidebook.runs.executed import code_cells
from guidebook.runs.progress import clock, told
from guidebook.runs.run import Run

DONE = ("complete", "recorded")  # states
QUIET = 30  # seconds between lines where the output is not a terminal


@contextmanager
def watching(run: Run) -> Iterator[None]:
    """While it is open, the progress of the run's notebook on stderr: once a second in a terminal, else now and then."""
    from rich.console import Console

    console, started, ended = Console(stderr=True), time.monotonic(), threading.Event()

    def show() -> None:
        while not ended.wait(1 if status else QUIET):
            text = f"{run.name} {time.monotonic() - started:4.0f} s: {_line(run)}"
            if status:
                status.update(text)
            else:
                print(text, file=sys.stderr, flush=True)

    with console.status(f"{run.name}: starting") if console.is_terminal else nullcontext() as status:
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def print_status(watch: bool = False) -> None:
    """Prints the table of all runs; with `watch` again every five seconds, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    if not watch:
        piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        Console(width=1000 if piped else None).print(status_table(status.everything()))  # in a pipe, a run a line
        return
    with suppress(KeyboardInterrupt), Live(status_table(status.everything()), auto_refresh=False) as live:
        while True:
            time.sleep(5)
            live.update(status_table(status.everything()), refresh=True)


def status_table(rows: list[dict]):
    """The table of `guidebook status`: what is not done, why jobs failed, and what is."""
    from rich.console import Group
    from rich.text import Text

    if not rows:
        return "no runs yet: guidebook run mnist"
    done = [row for row in rows if row["state"] in DONE]
    reasons = [(row["run"], row.get("seed", ""), row["reason"], row["log"]) for row in rows if "reason" in row]
    failed = [Text(f"{run} {seed} failed: {reason}, {log}") for run, seed, reason, log in reasons]
    parts = (_table([row for row in rows if row not in done]), *failed, _table(done))
    return Group(*(part for part in parts if part))


def _table(rows: list[dict]):
    """Some rows, with the columns that any of them fills; None where there are none."""
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return None
    lines, table = [_cells(row) for row in rows], Table(box=None)
    shown = [name for name in lines[0] if any(line[name] for line in lines)]
    for name in shown:  # a name or a key cut short would name nothing
        table.add_column(name, no_wrap=name in ("run", "key", "state"), overflow="fold")
    for line in lines:
        table.add_row(*(escape(line[name]) for name in shown))
    return table


def _cells(row: dict) -> dict[str, str]:
    """One line of the table, by column."""
    key = re.search(r"-([0-9a-f]{8})(/variants/|$)", row["folder"])
    working = row["state"] not in DONE and "of" in row
    seen = f"{row['images seen']:,}" + (f" of {row['of']:,}" if working else "") if "of" in row else ""
    job = f"{row['job']} {row['job state']}" if row["job"] else ""
    job += f", {row['job time left']} left" if row["job"] and not row["job state"].startswith("PENDING") else ""
    left, loss = (row.get(k) if working else None for k in ("seconds left", "loss"))
    return {
        "run": row["run"],
        "key": key[1] if key else "",  # of the folder runs/<run>-<key>; a record has none
        "seed": str(row.get("seed", "")),
        "state": " ".join(filter(None, (row["state"], row.get("training")))),
        "job": job,
        "images seen": seen,
        "images/s": f"{row['images/s']:,}" if working and row["images/s"] else "",
        "left": "" if left is None else clock(left),
        "loss": "" if loss is None else f"{loss:.4f}",
        "best adherence": (row.get("best adherence") or "").partition(", n =")[0],
    }


def _line(run: Run) -> str:
    text = "starting"
    with suppress(OSError, ValueError, KeyError, TypeError):  # it is not there yet, or damaged
        cells = code_cells(partial(run.path / "notebook.ipynb"))
        done = sum(isinstance(c["execution_count"], int) for c in cells)
        text = f"cell {min(done + 1, len(cells))} of {len(cells)}"
    with suppress(OSError, ValueError):
        text = ", ".join(filter(None, (text, told(run.path / "notebook.ipynb").read_text())))
    return text

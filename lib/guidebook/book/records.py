"""The page of results: every metric record of every run as one table that a reader sorts, filters and takes along."""

import json
import logging
import zlib
from collections.abc import Callable
from typing import Any

from guidebook.config.errors import ParamsError, plain
from guidebook.report.banner import fraction
from guidebook.report.tables import ASIDE, Html, below, escaped, measured, pick, table, with_interval
from guidebook.runs.run import Run

log = logging.getLogger(__name__)
FIELDS = (
    "run", "metric", "w", "value", "low", "high", "shown", "n", "interval", "read_by", "against", "weights", "drawn_by", "key",
)  # fmt: skip
WORDS = (0, 1, 8, 9, 10, 11, 12)  # fields of words that many rows share
MAIN = ("fid", "fd_random", "fd_judge")  # distances


def parts(runs: list[Run], named: Callable[[Run], Html]) -> dict[str, str]:
    """Of the page its table of each run's main numbers, with names from `named`, and all records as JSON for the script that shows them."""
    rows, mains = [], {}
    distances = [m for m in MAIN if any(pick(run.metrics(), m) for run in runs)]
    for run in (run for run in runs if run.params.profile != "smoke"):
        records = [r for r in run.metrics() if not r.get("group", "").startswith(ASIDE)]
        records.sort(key=lambda r: (r["metric"], -1 if r["guidance"] is None else r["guidance"]))
        try:
            # A way that is also the run's usual one gives the same images under two names: once is enough.
            found = dict(zip(measured(records, run.params.sample.seed), records, strict=True))
        except (ParamsError, KeyError) as error:  # a draw that is none, a field that lacks
            log.warning("left out: %s: %s", run.path / "metrics.json", error)
            continue
        if found:
            rows += [_row(run.name, row, record) for row, record in found.items()]
            mains[run.name] = _main(run, named(run), records, distances, len(found))
    heads = ["run", "most adherence", *(f"least {m}" for m in distances), "records"]
    return {"main": with_variants(heads, mains), "records": _script(rows)}


def with_variants(heads: list[str], rows: dict[str, list]) -> str:
    """A table of runs, by their names; below it, folded, one of their variants and further trainings."""
    others = [row for name, row in rows.items() if " · " in name]
    more = (
        f"<details><summary>{len(others)} variants and further trainings</summary>{table(heads, others).text}</details>"
    )
    return table(heads, [row for name, row in rows.items() if " · " not in name]).text + (more if others else "")


def _row(run: str, row: tuple, record: dict) -> list:
    metric, _, shown, _, interval, *by = row
    key = f"{zlib.crc32(repr((run, metric, record['guidance'], record['n'], *row[4:])).encode()):08x}"  # of all but the value
    words = [plain(word) if word else "" for word in (interval, *by)]
    numbers = (record[k] for k in ("value", "low", "high"))
    return [run, plain(metric), record["guidance"], *numbers, shown, record["n"], *words, key]


def _main(run: Run, name: Html, records: list[dict], distances: list[str], count: int) -> list:
    """Its row of the first table: the most adherence and the least of each distance over its guidance scales, with where they were found."""
    guided = [r for r in records if r["guidance"] is not None]
    rests = f"{fraction(run)}. Data: {run.provenance().get('data_note', 'unknown')}."
    name = Html(f'<strong>{name.text}</strong><div class="rests">{escaped(rests)}</div>')
    most = max((r for r in guided if r["metric"] == "adherence"), key=lambda r: r["value"], default=None)
    least = [min((r for r in guided if r["metric"] == m), key=lambda r: r["value"], default=None) for m in distances]
    return [name, _best(most), *map(_best, least), f"{count:,}"]


def _best(record: dict | None) -> Html | None:
    old = ", not standardised" if record and "not standardised" in (record["extractor"] or "") else ""
    return record and below(with_interval(record), f"w = {record['guidance']:g}, n = {record['n']:,}{old}")


def _script(rows: list[list[Any]]) -> str:
    """Records as data of a page, each word once: nothing in them can end the script, or be read as Markdown."""
    words = {word: i for i, word in enumerate(dict.fromkeys(row[k] for row in rows for k in WORDS))}
    coded = [[words[value] if k in WORDS else value for k, value in enumerate(row)] for row in rows]
    data = {"fields": FIELDS, "coded": WORDS, "words": [*words], "rows": coded}
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="records-data">{text}</script>'

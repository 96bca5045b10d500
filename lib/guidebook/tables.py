"""Tables for notebooks and pages: data frames and escaped HTML, never raw text from a params file."""

import html

import pandas as pd

from guidebook import params as P
from guidebook.paths import PARAMS
from guidebook.refusals import plain
from guidebook.run import Run


class Html:
    """Something a notebook shows as HTML. The text inside is escaped by whoever makes it."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def banner(run: Run) -> str:
    """The note, in HTML, at the top of an experiment's page: which run it shows, on what data, and where it differs from its profile."""
    facts, params = run.provenance(), run.params
    seen = facts.get("images_seen")
    said = [
        f"This page shows {'the recorded run' if run.recorded else 'the run'} {run.name}",
        f"{seen:,} images seen, {facts['train_seconds'] / 60:.0f} min of training on {facts['device']}"
        if seen
        else None,
        facts.get("data_note"),
        "captions go through a stand-in for CLIP: a small text transformer with fixed random weights"
        if params.text.encoder == "embedded"
        else f"captions go through {params.text.encoder}",
    ]
    lines = [". ".join(html.escape(plain(s[0].upper() + s[1:])) for s in said if s) + "."]
    published = PARAMS / params.experiment / f"{params.profile}.yml"
    changes = P.differences(P.check(P.read(published), published.name), params) if published.exists() else []
    changes = [c for c in changes if c[0].removeprefix("train.") not in P.FREE]
    if changes:
        told = "; ".join(f"{key} is {_show(b)} instead of {_show(a)}" for key, a, b in changes)
        lines.append(f"<strong>It departs from {html.escape(params.profile)}.yml:</strong> {html.escape(plain(told))}.")
    return f'<div class="run-banner">{"<br>".join(lines)}</div>'


def metric_table(records: list[dict]) -> Html:
    """Metric records as value [low, high], one row per guidance scale, one column per metric."""
    rows = [{"w": r["guidance"], "n": r["n"], "metric": r["metric"], "text": with_interval(r)} for r in records]
    frame = pd.DataFrame(rows).pivot(index=["w", "n"], columns="metric", values="text")
    frame = (
        frame[[m for m in ("adherence", "fd_judge", "diversity", "grain") if m in frame]]
        .rename_axis(columns=None)
        .reset_index()
    )
    frame["w"] = [f"{w:g}" for w in frame["w"]]
    return Html(frame.to_html(index=False, border=0, escape=True, classes="table"))


def with_interval(record: dict) -> str:
    """`96.2 % [94.1, 97.5]` or `12.3 [11.8, 12.9]`."""
    scale, unit = (100, " %") if record["metric"] == "adherence" else (1, "")
    value, low, high = (scale * record[k] for k in ("value", "low", "high"))
    return f"{value:.1f}{unit} [{low:.1f}, {high:.1f}]"


def verdict(a: dict, b: dict) -> str:
    """Whether record `a` is above record `b`: only where their intervals do not meet."""
    if a["low"] > b["high"]:
        return "holds"
    return "does not hold" if a["high"] < b["low"] else "undecided: the intervals overlap"


def claims_table(rows: list[tuple[str, str, str]]) -> Html:
    """(what was published, what this run found, verdict) as a table."""
    heads = ("published", "this run found", "verdict")
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{h}</th>" for h in heads)
    return Html(f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _show(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""Tables for notebooks and pages: data frames and escaped HTML, never raw text from a params file."""

import html
from collections.abc import Sequence

from guidebook import params as P
from guidebook.imagesets import ImageSet
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


SHOWN = (
    "adherence", "fid", "fd_judge", "inception_score", "precision", "recall", "precision_judge", "recall_judge", "clip_score",
    "lpips_diversity", "diversity", "grain",
)  # fmt: skip
SHARES = ("adherence", "accuracy_untrained")


def metric_table(records: list[dict], metrics: Sequence[str] = SHOWN) -> Html:
    """Metric records as value [low, high], one row per guidance scale, one column per metric."""
    at = sorted({r["guidance"] for r in records})
    heads = [m for m in metrics if any(r["metric"] == m for r in records)]
    rows = []
    for w in at:
        of = {r["metric"]: r for r in records if r["guidance"] == w}
        rows.append(
            [
                f"{w:g}",
                f"{max(r['n'] for r in of.values()):,}",
                *(with_interval(of[m]) if m in of else "" for m in heads),
            ]
        )
    return _html(["w", "n", *heads], rows)


def protocols(found: dict[float, list[dict]], short: dict[float, list[dict]], real: list[dict]) -> Html:
    """The published protocol beside ours: a row per guidance scale, and one of real images.

    `found` holds the records of each scale, `short` the Fréchet distances by the published numbers of images.
    """

    def row(head: str, of: list[dict], few: list[dict]) -> list[str]:
        at = {r["metric"]: r for r in of}
        cells = [f"{with_interval(r)} (n = {r['n']:,})" for r in (*few, at.get("accuracy_untrained")) if r]
        ours = [at[m] for m in ("fid_inf", "fid", "fd_judge", "adherence") if m in at]
        kept = [r for r in ours if r["metric"] in ("adherence", ours[0]["metric"])]
        return [head, *cells, *(f"{with_interval(r)} (n = {r['n']:,})" for r in kept)]

    rows = [row(f"w = {w:g}", found[w], short[w]) for w in found]
    width = len(rows[0])
    last = row("real, test split", real, [])
    rows.append([last[0], *[""] * (width - len(last)), *last[1:]])
    distance = next(iter(short.values()))[0]["metric"]
    return _html(
        ["", f"{distance} against test images", "untrained judge", "our distance to the train split", "trained judge"][
            :width
        ],
        rows,
    )


def method_table(methods: dict[str, list[dict]], sets: list[ImageSet]) -> Html:
    """A row per way to guide and scale: adherence, fd_judge, diversity, and what an image costs."""
    cost = {(s.facts.get("method"), s.facts["guidance"]): s.facts for s in sets}
    rows = []
    for name, records in methods.items():
        for w in sorted({r["guidance"] for r in records}):
            of, facts = {r["metric"]: r for r in records if r["guidance"] == w}, cost.get((name, w)) or cost[None, w]
            told = ", ".join(f"{k} {v:g}" for k, v in facts.get("settings", {}).items())
            shown = [with_interval(of[m]) for m in ("adherence", "fd_judge", "diversity")]
            rows.append(
                [name, told, f"{w:g}", *shown, str(facts["evaluations"]), f"{1000 * facts['seconds_per_image']:.1f}"]
            )
    return _html(["guidance", "told", "w", "adherence", "fd_judge", "diversity", "cost", "ms per image"], rows)


def solver_table(sets: list[tuple[ImageSet, list[dict]]]) -> Html:
    """A row per solver and number of steps: what it costs and how near it comes."""
    rows = []
    for images, records in sorted(sets, key=lambda s: s[0].facts["evaluations"]):
        facts, of = images.facts, {r["metric"]: r for r in records}
        spacing = facts.get("spacing", "leading")
        told = [solver_name(facts), spacing, str(facts["steps"]), str(facts["evaluations"])]
        rows.append(
            [
                *told,
                f"{1000 * facts['seconds_per_image']:.1f}",
                with_interval(of["fd_judge"]),
                with_interval(of["adherence"]),
            ]
        )
    return _html(["solver", "spacing", "steps", "evaluations", "ms per image", "fd_judge", "adherence"], rows)


def solver_name(facts: dict) -> str:
    """`ddim`, or `ddim, η = 1`."""
    return facts["sampler"] + (f", η = {facts['eta']:g}" if facts.get("eta") else "")


def notes(lines: list[str]) -> Html:
    """Lines of text as a list; nothing where there are none."""
    return Html("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else "")


def with_interval(record: dict) -> str:
    """`96.2 % [94.1, 97.5]` or `12.3 [11.8, 12.9]`; of small values three digits."""
    scale, unit = (100, " %") if record["metric"] in SHARES else (1, "")
    value, low, high = (scale * record[k] for k in ("value", "low", "high"))
    places = 1 if unit or max(abs(value), abs(high)) >= 10 else 2 if max(abs(value), abs(high)) >= 1 else 3
    return f"{value:.{places}f}{unit} [{low:.{places}f}, {high:.{places}f}]"


def _html(heads: list[str], rows: list[list[str]]) -> Html:
    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", r) for r in rows)
    return Html(f'<table class="table"><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table>')


def verdict(a: dict, b: dict) -> str:
    """Whether record `a` is above record `b`: only where their intervals do not meet."""
    if a["low"] > b["high"]:
        return "holds"
    return "does not hold" if a["high"] < b["low"] else "undecided: the intervals overlap"


def _show(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

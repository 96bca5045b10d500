"""Tables and notes for notebooks and pages. All text in them is escaped: it may come from a params file or a run folder."""

import html
from collections.abc import Sequence
from typing import Any

from guidebook.conditioning.grammar import active, attribute_caption
from guidebook.config.errors import plain
from guidebook.config.params import digest
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw

SHOWN = (
    "adherence", "fid", "fd_judge", "inception_score", "precision", "recall", "precision_judge", "recall_judge", "clip_score",
    "lpips_diversity", "diversity", "grain", "copying", "copies", "saturation",
)  # fmt: skip
SHARES = ("adherence", "adherence_attribute", "edit", "edit_before", "accuracy_untrained", "copies")


class Html:
    """HTML that a notebook shows as it is."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """An HTML table that scrolls by itself. A cell is `Html`, None (left empty) or anything else, whose text is escaped."""

    def cell(value: Any) -> str:
        return value.text if isinstance(value, Html) else "" if value is None else html.escape(plain(value))

    def line(tag: str, cells: Sequence[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', heads)}</thead>"
    return Html(f'<div class="scroll"><table class="table">{head}<tbody>{body}</tbody></table></div>')


def notes(lines: list[str]) -> Html:
    """Lines of text as a list; nothing where there are none."""
    return Html("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else "")


def folded(summary: str, text: str) -> Html:
    """Preformatted text, shown when its summary is opened."""
    return Html(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")


def glue(**values: Any) -> None:
    """Values for the prose of a page, under the names by which it calls them: {glue:text}`name`, as myst-nb reads it."""
    from IPython.display import display

    prefix = "application/papermill.record/"
    for name, value in values.items():
        facts = {"scrapbook": {"name": name, "mime_prefix": prefix}}
        display({f"{prefix}text/plain": str(value)}, raw=True, metadata=facts)


# Metric records


def pick(records: list[dict], *metrics: str, **where: Any) -> dict | None:
    """The first record of the first of these metrics that there is, with the given values of other fields."""
    fits = [r for r in records if all(r.get(k) == v for k, v in where.items())]
    return next((r for m in metrics for r in fits if r["metric"] == m), None)


def with_interval(record: dict | None) -> str:
    """`96.2 % [94.1, 97.5]` or `12.3 [11.8, 12.9]`, small values with three digits; empty without a record."""
    if record is None:
        return ""
    scale, unit = (100, " %") if record["metric"] in SHARES else (1, "")
    value, low, high = (scale * record[k] for k in ("value", "low", "high"))
    places = 1 if unit or max(abs(value), abs(high)) >= 10 else 2 if max(abs(value), abs(high)) >= 1 else 3
    return f"{value:.{places}f}{unit} [{low:.{places}f}, {high:.{places}f}]"


def verdict(a: dict, b: dict) -> str:
    """Whether record `a` is above record `b`: decided only where their intervals do not meet."""
    if a["low"] > b["high"]:
        return "holds"
    return "does not hold" if a["high"] < b["low"] else "undecided: the intervals overlap"


def metric_table(records: list[dict], metrics: Sequence[str] = SHOWN) -> Html:
    """Metric records as value [low, high], one row per guidance scale, one column per metric."""
    heads, rows = [m for m in metrics if pick(records, m)], []
    for w in sorted({r["guidance"] for r in records}):
        at = [r for r in records if r["guidance"] == w]
        rows.append([f"{w:g}", f"{max(r['n'] for r in at):,}", *(with_interval(pick(at, m)) for m in heads)])
    return table(["w", "n", *heads], rows)


def record_table(records: list[dict], also: Sequence[str] = ()) -> Html:
    """Metric records, one row each, after the fields `also`."""
    rows = [
        [*(r[k] for k in also), r["metric"], with_interval(r), f"{r['n']:,}", r["extractor"], r["reference"]]
        for r in records
    ]
    return table([*also, "metric", "value", "n", "by", "against"], rows)


def protocols(scales: dict[float, list[dict]], real: list[dict]) -> Html:
    """The published protocol beside ours: one row per guidance scale, and one of real images.

    Of each, the records are the Fréchet distance by the published numbers of images, then the records of `measure`.
    """
    distance = real[0]["metric"]
    heads = ["", f"{distance} against test images", "untrained judge", "against the train split", "trained judge"]
    rows = []
    for name, (first, *rest) in {**{f"w = {w:g}": of for w, of in scales.items()}, "real images": real}.items():
        later = (pick(rest, "accuracy_untrained"), pick(rest, f"{distance}_inf", distance), pick(rest, "adherence"))
        rows.append([name, *(f"{with_interval(r)} (n = {r['n']:,})" if r else "" for r in (first, *later))])
    return table(heads, rows)


def count_table(curves: dict[str, list[dict]]) -> Html:
    """A Fréchet distance at several numbers of images, one row each, and its limit at infinitely many; one column per set."""
    at = {name: {1e99 if r["metric"].endswith("_inf") else r["n"]: r for r in of} for name, of in curves.items()}
    counts = sorted({n for of in at.values() for n in of})
    rows = [["∞" if n == 1e99 else f"{n:,}", *(with_interval(of.get(n)) for of in at.values())] for n in counts]
    return table(["N", *at], rows)


def method_table(methods: dict[str, list[dict]], sets: list[ImageSet]) -> Html:
    """One row per guidance method and scale: adherence, fd_judge, diversity, and the cost of an image."""
    facts, rows = {digest(s.draw.json): s.facts for s in sets}, []
    for name, records in methods.items():
        for w in sorted({r["guidance"] for r in records}):
            shown = [pick(records, m, guidance=w) for m in ("adherence", "fd_judge", "diversity")]
            of, way = facts[digest(shown[0]["draw"])], Draw.model_validate(shown[0]["draw"]).way()
            rows.append([name, ", ".join(way), f"{w:g}", *map(with_interval, shown), of["evaluations"], _ms(of)])
    return table(["guidance", "settings", "w", "adherence", "fd_judge", "diversity", "cost", "ms per image"], rows)


def solver_table(sets: list[tuple[ImageSet, list[dict]]]) -> Html:
    """One row per solver and number of steps: its cost and its distance to real images."""
    rows = []
    for images, records in sorted(sets, key=lambda s: s[0].facts["evaluations"]):
        f, draw, found = images.facts, images.draw, [pick(records, m) for m in ("fd_judge", "adherence")]
        rows.append(
            [", ".join(draw.walk()), f"{draw.guidance.w:g}", f["evaluations"], _ms(f), *map(with_interval, found)]
        )
    return table(["solver", "w", "evaluations", "ms per image", "fd_judge", "adherence"], rows)


def _ms(facts: dict) -> str:
    return f"{1000 * facts['seconds_per_image']:.1f}"


# Captions


def caption_table(labels: Sequence[int], seed: int, epochs: int = 2) -> Html:
    """Attributes of faces, given as bits, beside their captions in the first epochs of a training."""
    rows = [
        [i + 1, ", ".join(active(a)).replace("_", " "), *(attribute_caption(a, seed, i, e) for e in range(epochs))]
        for i, a in enumerate(labels)
    ]
    return table(["", "attributes", *(f"caption in epoch {e + 1}" for e in range(epochs))], rows)


def prompts(images: ImageSet, rows: int = 8) -> Html:
    """The captions of the first samples of faces, numbered as the rows of a figure are."""
    seed, labels = images.draw.seed, images.labels[:rows].tolist()
    return table(["", "caption"], [[i + 1, attribute_caption(a, seed, i, 0)] for i, a in enumerate(labels)])

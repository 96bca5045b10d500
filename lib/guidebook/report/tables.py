"""Tables and notes for notebooks and pages. All text in them is escaped: it may come from a params file or a run folder."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guidebook.conditioning.grammar import active, attribute_caption
from guidebook.config.errors import plain
from guidebook.config.params import check, digest
from guidebook.metrics.groups import SHARES
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = (
    "adherence", "fid", "fd_judge", "fd_random", "diversity", "diversity_pixels", "saturation", "copying", "copies", "clip_score", "lpips_diversity", "inception_score",
    "adherence_superclass", "precision", "recall", "precision_judge", "recall_judge", "grain",
)  # fmt: skip
MEASURED = ("metric", "w", "value", "n", "interval", "read by", "against", "weights", "drawn by")
# Groups of records that are points of a figure or another protocol: their page shows them
ASIDE = ("curve-", "against-")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Html:
    """HTML that a notebook shows as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return "Html(…)"  # no address in memory, which would differ in every kept notebook

    def _repr_html_(self) -> str:
        return self.text


def escaped(words: Any) -> str:
    """Words as a text node of HTML, on one line: none that a record says can begin a tag, or end the block of HTML they stand in."""
    return html.escape(plain(words))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], keys: int = 0) -> Html:
    """An HTML table that scrolls by itself. A cell is `Html`, None (left empty) or anything else, whose text is escaped.

    With more than eight columns it is two tables, one below the other, each with the first `keys` of them.
    """
    if keys and len(heads) > 8:
        half, lines = (keys + len(heads) + 1) // 2, [heads, *rows]
        parts = [row[:half] for row in lines], [[*row[:keys], *row[half:]] for row in lines]
        return Html("".join(table(head, body).text for head, *body in parts))

    def line(tag: str, cells: Sequence[Any]) -> str:
        found = (c.text if isinstance(c, Html) else "" if c is None else escaped(c) for c in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in found) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', heads)}</thead>".replace("_", "_<wbr>")
    return Html(f'<div class="scroll"><table class="table">{head}<tbody>{body}</tbody></table></div>')


def number(x: float) -> str:
    """Two digits of a number, with a power of ten from 100 on and below 0.0001; no line breaks within."""
    digits, _, power = f"{x:.2g}".partition("e")
    return digits + (f"·10{str(int(power)).translate(RAISED)}" if power else "")


def below(words: Any, rests: Any = "") -> Html:
    """A cell with small print below its words."""
    return Html(escaped(words) + (f'<div class="rests">{escaped(rests)}</div>' if rests else ""))


def tensors(**named: "Tensor") -> Html:
    """Tensors by name, one a row: shape, type, and the least, mean and largest value with the standard deviation."""
    rows = []
    for name, x in named.items():
        values = x.detach().double()
        found = (f"{f():.3g}" for f in (values.min, values.mean, values.max, values.std))
        rows.append([name, str(tuple(x.shape)), str(x.dtype).removeprefix("torch."), *found])
    return table(["tensor", "shape", "type", "least", "mean", "largest", "standard deviation"], rows)


def notes(lines: list[str]) -> Html:
    """A folded list of metrics that could not be measured: lines of names, a colon, and why; nothing where there are none."""
    names = ", ".join(escaped(line.partition(":")[0]) for line in lines)
    why = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return Html(f"<details><summary>Not measured: {names}</summary><ul>{why}</ul></details>" if lines else "")


def folded(summary: str, text: str) -> Html:
    """Preformatted text, shown when its summary is opened."""
    return Html(f"<details><summary>{escaped(summary)}</summary><pre>{html.escape(text)}</pre></details>")


def glue(**values: Any) -> None:
    """Values for the prose of a page, under the names by which it calls them: {glue:text}`name`, as myst-nb reads it."""
    from IPython.display import display

    prefix = "application/papermill.record/"
    for name, value in values.items():
        facts = {"scrapbook": {"name": name, "mime_prefix": prefix}}
        # Quoted, for myst-nb reads 9,999 as two numbers.
        display({f"{prefix}text/plain": repr(str(value))}, raw=True, metadata=facts)


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
    value, low, high = (scale * (max(-1, min(record[k], 1)) if unit else record[k]) for k in ("value", "low", "high"))
    places = 1 if unit or max(abs(value), abs(high)) >= 10 else 2 if max(abs(value), abs(high)) >= 1 else 3
    return f"{value:.{places}f}{unit} [{low:.{places}f}, {high:.{places}f}]"


def over_trainings(record: dict | None) -> str:
    """`with_interval`; where the run was trained again, then the mean and standard deviation over trainings, with the two-level interval."""
    if not (record and (again := record.get("again"))):
        return with_interval(record)
    unit = 100 if record["metric"] in SHARES else 1
    mean, spread = with_interval(record | again), f"sd {unit * again['spread']:.2g}"
    return f"{with_interval(record)}; {again['trainings']} trainings: {mean}, {spread}"


def metric_table(records: list[dict]) -> Html:
    """Metric records as value [low, high], one row per guidance scale and one of real images, one column per metric of `SHOWN` of samples.

    Real images have the most adherence that the judge can give to samples as good as they are: its ceiling.
    """
    heads, rows = [m for m in SHOWN if pick([r for r in records if r["guidance"] is not None] or records, m)], []
    for w in sorted({r["guidance"] for r in records}, key=lambda w: (w is None, w)):
        at = [r for r in records if r["guidance"] == w]
        name = "real images" if w is None else f"{w:g}"
        rows.append([name, f"{max(r['n'] for r in at):,}", *(over_trainings(pick(at, m)) for m in heads)])
    return table(["w", "n", *heads], rows, keys=2)


def record_table(records: list[dict], also: Sequence[str] = ()) -> Html:
    """Metric records, one row each, after the fields `also`."""
    rows = [
        [*(r[k] for k in also), r["metric"], over_trainings(r), f"{r['n']:,}", r["extractor"], r["reference"]]
        for r in records
    ]
    return table([*also, "metric", "value", "n", "by", "against"], rows)


def measured(records: list[dict], seed: int | None = None) -> list[tuple]:
    """Rows under `MEASURED`: a record with all that says how it was computed; the seed where it is not the usual one."""
    rows = []
    for r in records:
        metric = " of ".join([r["metric"], *([r["attribute"].replace("_", " ")] if r.get("attribute") else [])])
        w = "real images" if r["guidance"] is None else f"{r['guidance']:g}"
        draw = r["draw"] and check(r["draw"], f"draw of {metric}", Draw)
        undrawn = r.get("set") if r.get("set") != "test split" else None  # as the round trip
        how = (draw.weights, ", ".join(draw.words(seed))) if draw else (None, undrawn)
        by = (r["interval"], r["extractor"], r["reference"], *how)
        rows.append((metric, w, with_interval(r), f"{r['n']:,}", *by))
    return rows


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
    return table(["N", *at], rows, keys=1)


def method_table(methods: dict[str, list[dict]], sets: list[ImageSet]) -> Html:
    """One row per guidance method and scale: what was measured of both quality and variety, and the evaluations of an image."""
    facts, rows = {digest(s.draw.json): s.facts for s in sets}, []
    every = ("adherence", "fd_judge", "fd_random", "diversity", "diversity_pixels", "saturation")
    heads = [m for m in every if any(pick(records, m) for records in methods.values())]
    for name, records in methods.items():
        for w in sorted({r["guidance"] for r in records}):
            shown = [pick(records, m, guidance=w) for m in heads]
            of, way = facts[digest(shown[0]["draw"])], Draw.model_validate(shown[0]["draw"]).way()
            way = ", ".join(way if name in (way or [""])[0] else [name, *way])
            rows.append([way, f"{w:g}", of["evaluations"], *map(over_trainings, shown)])
    return table(["guidance", "w", "evaluations", *heads], rows, keys=3)


def solver_table(sets: list[tuple[ImageSet, list[dict]]]) -> Html:
    """One row per solver and number of steps: its cost and its distance to real images."""
    rows = []
    for images, records in sorted(sets, key=lambda s: s[0].facts["evaluations"]):
        f, draw, found = images.facts, images.draw, [pick(records, m) for m in ("fd_judge", "adherence")]
        way = (", ".join(draw.walk()), f"{draw.guidance.w:g}", f["evaluations"], f"{1000 * f['seconds_per_image']:.1f}")
        rows.append([*way, *map(over_trainings, found)])
    return table(["solver", "w", "evaluations", "ms per image", "fd_judge", "adherence"], rows)


# Captions


def caption_table(labels: Sequence[int], seed: int) -> Html:
    """Attributes of faces, given as bits, beside their captions in the first two epochs of a training."""
    captions = [[attribute_caption(a, seed, i, epoch) for epoch in (0, 1)] for i, a in enumerate(labels)]
    rows = [[i + 1, ", ".join(active(a)).replace("_", " "), *captions[i]] for i, a in enumerate(labels)]
    return table(["", "attributes", "caption in epoch 1", "caption in epoch 2"], rows)


def prompts(images: ImageSet) -> Html:
    """The captions of the first eight samples of faces, numbered as the rows of a figure are."""
    seed, labels = images.draw.seed, images.facts["labels"][:8]
    return table(["", "caption"], [[i + 1, attribute_caption(a, seed, i, 0)] for i, a in enumerate(labels)])

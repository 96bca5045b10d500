"""Tables for notebooks and pages: data frames and escaped HTML, never raw text from a params file."""

import html
from collections.abc import Sequence

from guidebook.conditioning.grammar import active, attribute_caption
from guidebook.config import params as P
from guidebook.config.errors import plain
from guidebook.config.params import digest
from guidebook.config.pretrained import EMBEDDED
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw


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
        f"of each split this run knows the first {params.data.limit:,} at most" if params.data.limit else None,
        "captions go through a stand-in for CLIP: a small text transformer with fixed random weights"
        if params.text.encoder == EMBEDDED
        else f"captions go through {params.text.encoder}",
        {
            None: None,
            EMBEDDED: "latents are those of a small autoencoder that was trained on the training images, a stand-in for Stable Diffusion's",
        }.get(params.model.vae, f"latents are those of {params.model.vae}"),
    ]
    lines = [". ".join(html.escape(plain(s[0].upper() + s[1:])) for s in said if s) + "."]
    if changes := P.departures(params):
        told = "; ".join(f"{key} {_changed(a, b)}" for key, a, b in changes)
        lines.append(f"<strong>It departs from {html.escape(params.profile)}.yml:</strong> {html.escape(plain(told))}.")
    return f'<div class="run-banner">{"<br>".join(lines)}</div>'


SHOWN = (
    "adherence", "fid", "fd_judge", "inception_score", "precision", "recall", "precision_judge", "recall_judge", "clip_score",
    "lpips_diversity", "diversity", "grain",
    "copying", "copies", "saturation",
)  # fmt: skip
SHARES = ("adherence", "adherence_attribute", "edit", "edit_before", "accuracy_untrained", "copies")


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
    return table(["w", "n", *heads], rows)


def record_table(records: list[dict], also: Sequence[str] = ()) -> Html:
    """Metric records, a row each: what was measured, value [low, high], how many, by what; before them the fields `also`."""
    rows = [
        [
            *(str(r[field]) for field in also),
            r["metric"],
            with_interval(r),
            f"{r['n']:,}",
            r["extractor"],
            r["reference"] or "",
        ]
        for r in records
    ]
    return table([*also, "metric", "value", "n", "by", "against"], rows)


def caption_table(labels: Sequence[int], seed: int, epochs: int = 2) -> Html:
    """Attributes of faces, given as bits, beside their captions in the first epochs of a training."""
    heads = ["", "attributes", *(f"caption in epoch {e + 1}" for e in range(epochs))]
    rows = [
        [str(i + 1), ", ".join(name.replace("_", " ") for name in active(bits)),
         *(attribute_caption(bits, seed, i, e) for e in range(epochs))]
        for i, bits in enumerate(labels)
    ]  # fmt: skip
    return table(heads, rows)


def prompts(images: ImageSet, rows: int = 8) -> Html:
    """What the first samples of attributes were asked to show, numbered as the rows of a figure are."""
    asked = [attribute_caption(a, images.draw.seed, i, 0) for i, a in enumerate(images.labels[:rows].tolist())]
    return table(["", "caption"], [[str(i + 1), text] for i, text in enumerate(asked)])


def protocols(scales: dict[float, list[dict]], real: list[dict]) -> Html:
    """The published protocol beside ours: a row per guidance scale, and one of real images.

    Of each the records are the Fréchet distance by the published numbers of images, then what `measure` gave.
    """
    heads = {
        "against test images": lambda of: of[0],
        "untrained judge": lambda of: _named(of, "accuracy_untrained"),
        "against the train split": lambda of: _named(of[1:], "fid_inf", of[0]["metric"]),
        "trained judge": lambda of: _named(of, "adherence"),
    }
    every = {**{f"w = {w:g}": of for w, of in scales.items()}, "real images": real}
    rows = [[name, *(_counted(find(of)) for find in heads.values())] for name, of in every.items()]
    return table(["", f"{real[0]['metric']} {next(iter(heads))}", *list(heads)[1:]], rows)


def count_table(curves: dict[str, list[dict]]) -> Html:
    """A Fréchet distance at several numbers of images, a row each, and at infinitely many; a column per set."""
    at = {name: {"∞" if r["metric"].endswith("_inf") else f"{r['n']:,}": r for r in of} for name, of in curves.items()}
    counts = sorted({n for of in at.values() for n in of}, key=lambda n: float(n.replace(",", "").replace("∞", "inf")))
    return table(["N", *at], [[n, *(with_interval(of[n]) if n in of else "" for of in at.values())] for n in counts])


def _named(records: list[dict], *metrics: str) -> dict | None:
    """The record of the first of these metrics that there is."""
    return next((r for m in metrics for r in records if r["metric"] == m), None)


def _counted(record: dict | None) -> str:
    return f"{with_interval(record)} (n = {record['n']:,})" if record else ""


def method_table(methods: dict[str, list[dict]], sets: list[ImageSet]) -> Html:
    """A row per way to guide and scale: adherence, fd_judge, diversity, and what an image costs."""
    cost, rows = {digest(s.draw.json): s.facts for s in sets}, []
    for name, records in methods.items():
        for w in sorted({r["guidance"] for r in records}):
            of = {r["metric"]: r for r in records if r["guidance"] == w}
            facts, draw = cost[digest(of["adherence"]["draw"])], Draw.model_validate(of["adherence"]["draw"])
            shown = [with_interval(of[m]) for m in ("adherence", "fd_judge", "diversity")]
            row = [name, ", ".join(draw.way()), f"{w:g}", *shown, str(facts["evaluations"])]
            rows.append([*row, f"{1000 * facts['seconds_per_image']:.1f}"])
    return table(["guidance", "settings", "w", "adherence", "fd_judge", "diversity", "cost", "ms per image"], rows)


def solver_table(sets: list[tuple[ImageSet, list[dict]]]) -> Html:
    """A row per solver and number of steps: what it costs and how near it comes."""
    rows = []
    for images, records in sorted(sets, key=lambda s: s[0].facts["evaluations"]):
        facts, of = images.facts, {r["metric"]: r for r in records}
        cost = [str(facts["evaluations"]), f"{1000 * facts['seconds_per_image']:.1f}"]
        told = [", ".join(images.draw.walk()), f"{images.draw.guidance.w:g}", *cost]
        rows.append([*told, *(with_interval(of[m]) for m in ("fd_judge", "adherence"))])
    return table(["solver", "w", "evaluations", "ms per image", "fd_judge", "adherence"], rows)


def notes(lines: list[str]) -> Html:
    """Lines of text as a list; nothing where there are none."""
    return Html("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else "")


def folded(summary: str, text: str) -> Html:
    """Text as it stands, shown when its summary is opened."""
    return Html(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")


def with_interval(record: dict) -> str:
    """`96.2 % [94.1, 97.5]` or `12.3 [11.8, 12.9]`; of small values three digits."""
    scale, unit = (100, " %") if record["metric"] in SHARES else (1, "")
    value, low, high = (scale * record[k] for k in ("value", "low", "high"))
    places = 1 if unit or max(abs(value), abs(high)) >= 10 else 2 if max(abs(value), abs(high)) >= 1 else 3
    return f"{value:.{places}f}{unit} [{low:.{places}f}, {high:.{places}f}]"


def table(heads: list[str], rows: list[list[str]]) -> Html:
    """Rows of text under their heads, escaped."""

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", r) for r in rows)
    return Html(f'<table class="table"><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table>')


def verdict(a: dict, b: dict) -> str:
    """Whether record `a` is above record `b`: only where their intervals do not meet."""
    if a["low"] > b["high"]:
        return "holds"
    return "does not hold" if a["high"] < b["low"] else "undecided: the intervals overlap"


def _changed(before, after) -> str:
    """What became of a parameter; of a list of settings, which are gone and which are new."""
    if not any(isinstance(value, list) and any(isinstance(x, dict) for x in value) for value in (before, after)):
        return f"is {_show(after)} instead of {_show(before)}"
    gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
    parts = [f"{word} {_show(found)}" for word, found in (("lacks", gone), ("adds", new)) if found]
    return " and ".join(parts) or "is in another order"


def _show(value) -> str:
    if isinstance(value, dict):
        return " ".join(v if isinstance(v, str) else f"{k} {v}" for k, v in value.items())
    return ", ".join(map(_show, value)) if isinstance(value, list) else str(value)

"""The chapter of the atlas: what documents state of sizes and costs, what was counted, and whether the one is the other."""

from collections.abc import Callable, Iterable

from guidebook.config.params import load
from guidebook.models.atlas import Atlas, Counted, Stated, load_atlas, number
from guidebook.models.counting import answers, counted
from guidebook.models.published import PARTS, Measured
from guidebook.models.space import shape_of
from guidebook.report.tables import Html, table

BF16 = 2  # bytes of a weight


def parts(name: Callable[[str], str]) -> dict[str, str]:
    """The tables by their places on the page; `name` gives the words for a document, as `Shah et al., 2024`."""
    atlas = load_atlas()
    at, rows = counted(atlas), atlas.resolved().values()
    tables = {
        "parameters": _sizes([r for r in rows if r.unit == "parameters"], at, name),
        "operations": _operations([r for r in rows if r.unit == "GMAC"], at, name),
        "others": _others([r for r in rows if r.unit not in ("parameters", "GMAC")], at, name),
        "derived": _derived(atlas, at, name),
        "experiments": _experiments(rows, at),
        "laws": _laws(atlas, at, name),
        "open": table(
            ["system", "stated", "by", "why"], [(o.system, o.says, name(o.source), o.why) for o in atlas.open]
        ),
    }
    verdicts = [verdict for _, verdict in answers(atlas, at).values()]
    held = sum(v == "holds" for v in verdicts)
    cited = ",".join(dict.fromkeys(r.source for r in (*atlas.counts, *atlas.derived, *atlas.laws, *atlas.open)))
    summary = (
        f"{len(atlas.counts)} numbers are counted. Of {len(verdicts)} that a document states, or a ratio, sum, order or power "
        f"of them, {held} hold and {len(verdicts) - held} do not. Sources: {{cite}}`{cited}`."
    )
    return {"summary": summary, **{place: of.text for place, of in tables.items()}}


def _stated(row: Stated) -> str:
    """With as many digits as the document."""
    ends = [end for end in (row.stated, row.upto) if end is not None]
    return " to ".join(number(end) if float(f"{end:.4g}") == end else f"{end:,.0f}" for end in ends)


def _from(row: Stated, name: Callable[[str], str]) -> str:
    return f"{name(row.source)}, {row.where}"


def _sizes(rows: list[Counted], at: dict[str, Measured], name: Callable[[str], str]) -> Html:
    def line(row: Counted) -> tuple:
        m, found = at[row.id], row.found(at[row.id])
        weights = f"{BF16 * (m.parameters + m.tables) / 1e9:.2f}"
        also = f"{m.tables:,}" if m.tables else None
        return row.says, f"{m.parameters:,}", also, weights, _stated(row), _from(row, name), row.verdict(found)

    heads = ["network", "parameters", "in fixed tables", "weights in bf16 (GB)", "stated", "by", "verdict"]
    return table(heads, list(map(line, rows)))


def _operations(rows: list[Counted], at: dict[str, Measured], name: Callable[[str], str]) -> Html:
    def line(row: Counted) -> tuple:
        m = at[row.id]
        shares = " / ".join(f"{100 * m.macs[part] / m.total:.0f}" for part in PARTS)
        costs = f"{m.total / 1e9:.2f}", f"{2 * m.total / 1e9:.2f}", shares, f"{BF16 * m.activations / 1e6:,.0f}"
        return row.says, *costs, _stated(row), _from(row, name), row.verdict(row.found(m))

    split = f"of it {' / '.join(PARTS)} (%)"
    heads = [
        "forward of one image",
        "GMAC",
        "GFLOP",
        split,
        "activations in bf16 (MB)",
        "stated (GMAC)",
        "by",
        "verdict",
    ]
    return table(heads, list(map(line, rows)))


def _others(rows: list[Counted], at: dict[str, Measured], name: Callable[[str], str]) -> Html:
    found = [(row, row.found(at[row.id])) for row in rows]
    lines = [(r.says, f"{v:g}", _stated(r), _from(r, name), r.verdict(v)) for r, v in found]
    return table(["", "found", "stated", "by", "verdict"], lines)


def _derived(atlas: Atlas, at: dict[str, Measured], name: Callable[[str], str]) -> Html:
    rows = atlas.resolved()
    lines = []
    for d in atlas.derived:
        text, verdict = d.answer([rows[i].found(at[i]) for i in d.of])
        lines.append((d.says, text, _stated(d), _from(d, name), verdict))
    return table(["statement", "found", "stated", "by", "verdict"], lines)


def _experiments(rows: Iterable[Counted], at: dict[str, Measured]) -> Html:
    """The experiments of the thesis side by side, as its tables 5 to 8 have them, with the sizes that they state."""
    lines, of = [], [row for row in rows if row.params]
    for file in dict.fromkeys(row.params for row in of):
        params = load(*file.split("/"))
        mine = [row for row in of if row.params == file]
        stated = "; ".join(f"{_stated(r)} ({r.where})" for r in mine if r.unit == "parameters" and r.stated)
        m = next(at[row.id] for row in mine)
        shape = "×".join(map(str, shape_of(params)))
        costs = (
            f"{m.parameters:,}",
            f"{m.total / 1e9:.2f}",
            f"{2 * m.total / 1e9:.2f}",
            f"{BF16 * m.parameters / 1e6:,.0f}",
        )
        how = f"{params.train.batch:,}", f"{params.train.lr:g}", f"{params.train.epochs:g}"
        lines.append((params.experiment, f"{params.data.resolution} px", shape, *costs, stated, *how))
    heads = ["experiment", "image", "network's input", "parameters", "GMAC", "GFLOP", "weights in bf16 (MB)"]
    return table([*heads, "parameters stated", "batch", "lr", "epochs"], lines)


def _laws(atlas: Atlas, at: dict[str, Measured], name: Callable[[str], str]) -> Html:
    lines = []
    for law in atlas.laws:
        found = [at[f"{law.of} at {side}"] for side in law.sides]
        power, verdict = law.answer(found)
        costs = ", ".join(f"{m.macs[law.part] / 1e9:.3g}" for m in found)
        lines.append(
            (law.says, ", ".join(map(str, law.sides)), costs, f"{power:.3f}", _stated(law), _from(law, name), verdict)
        )
    return table(["part", "sides", "GMAC", "power of the side", "stated", "by", "verdict"], lines)

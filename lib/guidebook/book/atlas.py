"""The chapter of the atlas: what documents state of sizes and costs, what was counted, and whether the one is the other."""

from collections.abc import Callable, Iterable
from typing import Any

from guidebook.config.params import load
from guidebook.models.atlas import Counted, Law, Stated, load_atlas, number
from guidebook.models.counting import answers, counted
from guidebook.models.published import PARTS, Measured
from guidebook.models.space import shape_of
from guidebook.report.tables import Html, below, table

BF16 = 2  # bytes of a weight


def parts(name: Callable[[str], str]) -> dict[str, str]:
    """The tables by their places on the page; `name` gives the words for a document, as `Shah et al., 2024`."""
    atlas = load_atlas()
    at, rows = counted(atlas), atlas.resolved().values()
    answered = answers(atlas, at)

    def stated(heads: list[str], rows: Iterable[Stated], cells: Callable[[Any], tuple]) -> Html:
        """Statements with what the document has, the verdict and the cells of what was found."""
        said = {s.id: below(*answered.get(s.id, ("", ""))[1].split(": ")) for s in rows}
        within = {s.id: f" ± {100 * s.tolerance:g} %" if (s.tolerance or 0) > 1e-5 else "" for s in rows}
        of = {s.id: below(_stated(s) + within[s.id], f"{name(s.source)}, {s.where}") for s in rows}
        return table([*heads[:2], "verdict", *heads[2:]], [(s.says, of[s.id], said[s.id], *cells(s)) for s in rows])

    sizes = ["network", "stated", "parameters", "in fixed tables", "weights in bf16 (GB)"]
    split, others = f"of it {' / '.join(PARTS)} (%)", [r for r in rows if r.unit not in ("parameters", "GMAC")]
    costs = ["forward of one image", "stated (GMAC)", "GMAC", "GFLOP", split, "activations in bf16 (MB)"]
    powers, waiting = ["part", "stated", "sides", "GMAC", "power of the side"], ["system", "stated", "by", "why"]
    tables = {
        "parameters": stated(sizes, [r for r in rows if r.unit == "parameters"], lambda r: _sizes(at[r.id])),
        "operations": stated(costs, [r for r in rows if r.unit == "GMAC"], lambda r: _costs(at[r.id])),
        "others": stated(["", "stated", "found"], others, lambda r: (f"{r.found(at[r.id]):g}",)),
        "derived": stated(
            ["statement", "stated", "found"], atlas.derived, lambda d: (answered[d.id][0].removeprefix(f"{d.says}: "),)
        ),
        "experiments": _experiments(rows, at),
        "laws": stated(powers, atlas.laws, lambda law: _power(law, at)),
        "open": table(waiting, [(o.system, o.says, name(o.source), o.why) for o in atlas.open]),
    }
    verdicts = [verdict for _, verdict in answered.values()]
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


def _sizes(m: Measured) -> tuple:
    weights = f"{BF16 * (m.parameters + m.tables) / 1e9:.2f}"
    return f"{m.parameters:,}", f"{m.tables:,}" if m.tables else None, weights


def _costs(m: Measured) -> tuple:
    shares = " / ".join(f"{100 * m.macs[part] / m.total:.0f}" for part in PARTS)
    return f"{m.gmac:.2f}", f"{m.gflop:.2f}", shares, f"{BF16 * m.activations / 1e6:,.0f}"


def _power(law: Law, at: dict[str, Measured]) -> tuple:
    found = [at[f"{law.of} at {side}"] for side in law.sides]
    macs = ", ".join(f"{m.macs[law.part] / 1e9:.3g}" for m in found)
    return ", ".join(map(str, law.sides)), macs, f"{law.answer(found)[0]:.3f}"


def _experiments(rows: Iterable[Counted], at: dict[str, Measured]) -> Html:
    """The experiments of the thesis side by side, as its tables 5 to 8 have them, with the sizes that they state."""
    lines, of = [], [row for row in rows if row.params]
    for file in dict.fromkeys(row.params for row in of):
        params = load(*file.split("/"))
        mine = [row for row in of if row.params == file]
        stated = "; ".join(f"{_stated(r)} ({r.where})" for r in mine if r.unit == "parameters" and r.stated)
        m = next(at[row.id] for row in mine)
        shape = "×".join(map(str, shape_of(params)))
        size = below(f"{m.parameters:,}", f"stated: {stated}")
        costs = size, f"{m.gmac:.2f}", f"{m.gflop:.2f}", f"{BF16 * m.parameters / 1e6:,.0f}"
        how = f"{params.train.batch:,}", f"{params.train.lr:g}", f"{params.train.epochs:g}"
        lines.append((params.experiment, f"{params.data.resolution} px", shape, *costs, *how))
    heads = ["experiment", "image", "network's input", "parameters", "GMAC", "GFLOP", "weights in bf16 (MB)"]
    return table([*heads, "batch", "lr", "epochs"], lines)

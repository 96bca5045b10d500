"""Pages made from the runs: every metric record, and what was run where."""

import html

from guidebook.overview import overview
from guidebook.run import Run
from guidebook.tables import with_interval

RESULTS = """# Results

Every metric record of every run in this book. A value stands with its 95 % interval in brackets, the number $n$ of images it
was measured on, how the interval was made, what read the images, and what they were compared with. `fd_judge` is a Fréchet
distance in the features of a judge trained on the same data; it is no FID and compares only with itself.
"""
STATUS = """# Status

What was run, with which code, on what. *Recorded* runs came from somewhere else and are kept without their weights; this build
redraws their pages from the record.
"""


def results(runs: list[Run]) -> str:
    """`results.md`: one table per run."""
    parts = [RESULTS]
    for run in runs:
        rows = [
            {
                "metric": r["metric"], "w": "real images" if r["guidance"] is None else f"{r['guidance']:g}", "value": with_interval(r),
                "n": f"{r['n']:,}", "interval": r["interval"], "read by": r["extractor"], "against": r["reference"] or "",
                "weights": r["weights"] or "", "sampler": f"{r['sampler']}, {r['steps']} steps" if r["sampler"] else "",
            }
            for r in sorted(run.metrics(), key=lambda r: (r["metric"], -1 if r["guidance"] is None else r["guidance"]))
        ]  # fmt: skip
        if rows and run.params.profile != "smoke":
            facts = f"{run.provenance().get('data_note', '')}. {run.provenance().get('images_seen', 0):,} images seen in training."
            parts += [f"## {run.name}\n", html.escape(facts) + "\n", table(rows)]
    return "\n".join(parts)


def status(runs: list[Run]) -> str:
    """`status.md`: what was run, on what, with which code."""
    names = [run.name for run in runs if run.params.profile != "smoke"]
    rows = [row for row in overview() if row["run"] in names]
    progress = ("run", "state", "images seen", "of", "best adherence")
    place = ("run", "data", "text", "device", "images/s")
    return "\n".join(
        [
            STATUS,
            table([{k: _thousands(row[k]) for k in progress} for row in rows]),
            "## On what\n",
            table([{k: _thousands(row[k]) for k in place} for row in rows]),
            "## With which code and data\n",
            table([_code(run) for run in runs if run.name in names]),
        ]
    )


def _code(run: Run) -> dict:
    facts = run.provenance()
    return {
        "run": run.name, "training": f"{facts.get('train_seconds', 0) / 60:.1f} min",
        **{name: facts.get("versions", {}).get(name) for name in ("python", "torch", "diffusers", "guidebook")},
        "commit": (facts.get("commit") or "unknown")[:8] + (" with changes" if facts.get("dirty") else ""),
        "data fingerprint": facts.get("data", {}).get("fingerprint"),
    }  # fmt: skip


def _thousands(value):
    return f"{value:,}" if isinstance(value, int) else value


def table(rows: list[dict]) -> str:
    """Rows as an HTML table that scrolls by itself; every cell is escaped."""

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape('' if c is None else str(c))}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", row.values()) for row in rows)
    return f'<div class="scroll"><table class="table"><thead>{line("th", rows[0])}</thead><tbody>{body}</tbody></table></div>\n'

"""Pages made from the runs: every metric record, what was run where, which faults were tried."""

import html
import json
from collections.abc import Sequence

from guidebook.book.status import overview
from guidebook.config.errors import plain
from guidebook.config.paths import BOOK, RESULTS
from guidebook.report.claims import Answer, configured, every
from guidebook.report.tables import with_interval
from guidebook.runs.run import Run
from guidebook.sampling.spec import Draw

RECORDS = """# Results

Every metric record of every run in this book. A value stands with its 95 % interval in brackets, the number $n$ of images it
was measured on, how the interval was made, what read the images, and what they were compared with. `fd_judge` is a Fréchet
distance in the features of a judge trained on the same data; it is no FID and compares only with itself. What drew the images
stands last: the sampler and its steps, then whatever is not as usual in the run, such as another way to guide, another spacing of
the timesteps, or a model that had seen only so many images of its training.
"""
STATUS = """# Status

What was run, with which code, on what. *Recorded* runs came from somewhere else and are kept without their weights; this build
redraws their pages from the record.
"""

FAULTS = RESULTS / "faults.json"  # what `make test-faults` tried, written when every test passed
RELIABILITY = """# Reliability

A run that takes days meets a time limit, a preemption, a full disk, a dead node, a typing error. What is promised for each is
written here with what was done to find out: real signals to real processes, a real full disk, a real SLURM, files with single
bytes changed. A fault *held* when the promise did.
"""
PROMISES = {
    "Interruptions": "Interrupted at any instruction, SIGKILL included, the next start goes on from the newest complete checkpoint. At most "
    "one checkpoint interval is repeated, and nothing by a training that was asked to stop, by a signal, a time limit "
    "or a preemption, and was given the time of a step, a save and the rest of a save that had begun. The time counts to a whole checkpoint; a kill after that loses nothing.",
    "Equality": "On the same device and versions the interrupted run's losses and weights equal the unbroken run's, bit for bit. A control "
    "that changes the order of the data fails the same comparison.",
    "Corrupt files": "A file that fails its hash is never loaded. An incomplete checkpoint is skipped; a corrupt one stops the run, which says "
    "what to do. At least two are kept.",
    "Full disks": "A full disk leaves the old checkpoint whole, a clear error and an exit status other than 0; with space the run goes on.",
    "Losses that are not finite": "A loss that is not finite stops the run before any such weights are saved, and names the step.",
    "One process at a time": "Two processes never train one run: the second says who does. The lock of a dead process, or of a job that has left its "
    "node, is taken over.",
    "Notebooks that did not end": "No page claims success for a notebook that did not reach its last cell.",
    "Hostile input": "No input file, caption or parameter executes code or writes outside the run folder. The one file that holds commands is "
    "`params/cluster.yml`: its `setup` and `container` are shell lines, run on the cluster as whoever submits.",
    "Wrong parameters": "A params file with an unknown key, a wrong type, text for a number, NaN or a size that cannot be is refused before a kernel "
    "starts, in one line.",
    "Bad images": "A bad image is converted rightly, or counted, named and skipped; where more than 1 in 1,000 are bad the run stops.",
}


# Groups of records that are points of a figure or another protocol: their page shows them.
ASIDE = ("curve-", "against-")
CLAIMS = """# Claims audited

One row per claim of the documents that this study repeats: what the document says, what was found, and whether the claim holds.
What was found is written by the page of the run that is named; a verdict is given only where intervals do not meet. A run on
stand-in data answers for its data and not for the document's: its page says how far it went.
"""


def claims(chapters: list[tuple[str, str, str, list[Answer]]]) -> str:
    """`claims.md`, from every experiment's page: its file, its title, the data of its run and its answers."""
    known = every()
    parts = [CLAIMS]
    for source in dict.fromkeys(c.source for c in known.values()):
        rows = []
        for claim in (c for c in known.values() if c.source == source):
            found = [("", "its own configuration", configured(claim))] if claim.stated else []
            found += [
                (file, f"{title}: {data}", a) for file, title, data, of in chapters for a in of if a.claim == claim.id
            ]
            for i, (file, by, answer) in enumerate(found or [("", "", Answer(claim.id, "not tested yet", ""))]):
                says, where = (claim.says, claim.where) if i == 0 else ("", "")
                by = f'<a href="{html.escape(file)}.html">{html.escape(by)}</a>' if file else html.escape(by)
                rows.append([*map(html.escape, (says, where, answer.found)), by, html.escape(answer.verdict)])
        heads = ("claim", "where", "found", "by", "verdict")
        name, title = _document(source)
        parts += [f"## {name}\n", f"*{title}* {{cite}}`{source}`\n", _table(heads, rows)]
    return "\n".join(parts)


def _document(source: str) -> tuple[str, str]:
    """`Shah et al., 2024` and the title of a document of the bibliography.

    A heading's citation would stand in the page's contents as its key, so a heading has the words themselves.
    """
    from pybtex.database import parse_file
    from pybtex.richtext import Text

    entry = parse_file(BOOK / "references.bib").entries[source]
    first, *others = (" ".join(map(str, p.rich_last_names)) for p in entry.persons["author"])
    more = f" and {others[0]}" if len(others) == 1 else " et al." if others else ""
    return _text(f"{first}{more}, {entry.fields['year']}"), _text(Text.from_latex(entry.fields["title"]))


def experiments(shown: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """The first page's table: of every experiment its notebook's heading and, of each of its pages, (file, profile, its run's data)."""
    rows = ["| experiment | asks | pages |", "|---|---|---|"]
    for heading, chapters in shown:
        name, _, asks = heading.partition(": ")
        links = "; ".join(f"[{profile}]({file}): {told}" for file, profile, told in chapters)
        rows.append(f"| **{name}** | {asks} | {links or 'not run yet'} |")
    return "\n".join(rows) + "\n"


def reliability() -> str:
    """`reliability.md`: every promise with the faults that were tried."""
    if not FAULTS.exists():
        return RELIABILITY + "\nNo test of faults has been recorded yet: `make test-faults` writes one.\n"
    record = json.loads(FAULTS.read_text())
    made, faults = record["made"], record["faults"]
    parts = [
        RELIABILITY,
        f"In all the promises were put to the test {sum(f['tried'] for f in faults):,} times and held "
        f"{sum(f['held'] for f in faults):,} times: on {made['date']}, at commit {(made['commit'] or 'unknown')[:8]}, with torch "
        f"{made['torch']} on {made['cores']} CPU cores. `make test-faults` tries them "
        "again and writes this record; each commit's tests try a part of them.\n",
    ]
    for number, (title, promise) in enumerate(PROMISES.items(), 1):
        of_this = [f for f in faults if f["promise"] == number]
        rows = []
        for fault in dict.fromkeys(f["fault"] for f in of_this):  # one test may try it in several rounds
            rounds = [f for f in of_this if f["fault"] == fault]
            tried, held = (f"{sum(f[k] for f in rounds):,}" for k in ("tried", "held"))
            details = dict.fromkeys(f["detail"] for f in rounds)
            rows.append({"fault": fault, "tried": tried, "held": held, "what was seen": "; ".join(details)})
        parts += [f"## {number}. {title}\n", promise + "\n", *([table(rows)] if rows else [])]
    return "\n".join(parts)


def results(runs: list[Run]) -> str:
    """`results.md`: one table per run."""
    parts = [RECORDS]
    for run in runs:
        rows = [
            {
                "metric": " of ".join([r["metric"], *_words(r.get("attribute"))]), "w": "real images" if r["guidance"] is None else f"{r['guidance']:g}", "value": with_interval(r),
                "n": f"{r['n']:,}", "interval": r["interval"], "read by": r["extractor"], "against": r["reference"] or "",
                "weights": (r["draw"] or {}).get("weights", ""), "drawn by": _drawn(r, run.params.sample.seed),
            }
            for r in sorted((r for r in run.metrics() if not r.get("group", "").startswith(ASIDE)), key=lambda r: (r["metric"], -1 if r["guidance"] is None else r["guidance"]))
        ]  # fmt: skip
        # A way that is also the run's usual one gives the same images under two names: once is enough.
        rows = list({tuple(row.values()): row for row in rows}.values())
        if rows and run.params.profile != "smoke":
            facts = f"{run.provenance().get('data_note', '')}. {run.provenance().get('images_seen', 0):,} images seen in training."
            parts += [f"## {_text(run.name)}\n", _text(facts) + "\n", table(rows)]
    return "\n".join(parts)


def _words(attribute: str | None) -> list[str]:
    """What a record of one attribute is of."""
    return [attribute.replace("_", " ")] if attribute else []


def _drawn(record: dict, seed: int) -> str:
    """What drew a record's images, and whatever is not as usual, `seed` being the run's; nothing for real images."""
    return ", ".join(Draw.model_validate(record["draw"]).words(seed)) if record["draw"] else ""


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


def _text(said) -> str:
    """Words from a run folder, harmless in a page: no tag, no line end that could begin a directive."""
    return html.escape(plain(said))


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
    return _table([html.escape(k) for k in rows[0]], [[_cell(c) for c in row.values()] for row in rows])


def _cell(value) -> str:
    return "" if value is None else _text(value)


def _table(heads: Sequence[str], rows: list[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table class="table"><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>\n'

"""The first page: verdicts in one figure, pictures, five findings and the scale of the evidence, all from records."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from guidebook.book.chapter import Chapter, evidence
from guidebook.config.budget import share
from guidebook.config.datasets import percent
from guidebook.metrics.compare import FAILS, HOLDS
from guidebook.report.claims import OUTCOMES, Answer, every, from_atlas, together
from guidebook.report.findings import MOST, finding
from guidebook.report.tables import escaped, pick
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import NotRecorded, Run
from guidebook.sampling.draw import sample_set
from guidebook.sampling.sets import strip
from guidebook.sampling.spec import usual

Given = Sequence[tuple[Chapter, list[Answer]]]  # each page with its answers
ROWS, STRIPS, LARGEST = 4, 3, 5.0  # documents and strips of samples that are shown; the largest scale of these
SHORT = 200  # characters of a finding that is read at a glance


def outcomes(given: Given) -> dict[str, str]:
    """The outcome of every claim, by its id: of its document, of the atlas and of all pages that answer it together."""
    found: dict[str, list[Answer]] = {}
    for claim in every().values():
        own = claim.answer and Answer(claim.id, claim.answer.found, claim.answer.verdict)
        found[claim.id] = [a for a in (own, from_atlas(claim)) if a]
    for answer in (a for _, answers in given for a in answers):
        found[answer.claim].append(answer)
    return {id: together(of or [Answer(id, "", "open")]) for id, of in found.items()}


def tally(given: Given, name: Callable[[str], str]) -> str:
    """In HTML: how many claims hold, do not and are undecided, as a bar for all and one for each of the largest documents, by their names."""
    of: dict[str, Counter] = {}
    for id, outcome in outcomes(given).items():
        of.setdefault(every()[id].source, Counter())[outcome] += 1
    largest, lines = sorted(of, key=lambda source: -of[source].total()), []
    rows = {f"All {len(every())} claims": sum(of.values(), Counter()), **{name(s): of[s] for s in largest[:ROWS]}}
    rows[f"{len(largest[ROWS:])} other papers"] = sum((of[s] for s in largest[ROWS:]), Counter())
    for label, counts in rows.items():
        parts = [
            f'<span class="verdict {kind}" style="flex-grow:{counts[outcome]}">{glyph} {counts[outcome]}{"" if lines else f" {outcome}"}</span>'
            for outcome, (kind, glyph) in OUTCOMES.items() if counts[outcome]
        ]  # fmt: skip
        bar = f'<span class="bar">{"".join(parts)}</span>'
        lines.append(f'<a href="claims.html"><span>{escaped(label)}</span>{bar}</a>')
    return f'<div class="tally">{"".join(lines)}</div>'


def chosen(given: Given) -> list[tuple[Chapter, Answer]]:
    """The findings of the first page: decided, and not contradicted by another page; one an experiment, those on images that were taken first."""
    found, first = outcomes(given), {}
    pairs = [(c, a) for c, answers in given for a in answers if a.verdict in (HOLDS, FAILS)]
    for c, a in sorted(pairs, key=lambda pair: (_rank(pair[0]), pair[1].p or 0)):
        new = c.name not in first and all(a.claim != other.claim for _, other in first.values())
        if new and found[a.claim] == a.verdict and len(a.found) <= SHORT:
            first[c.name] = c, a
    return [*first.values()][:MOST]


def _rank(c: Chapter) -> tuple:
    return evidence(c.run)[1::-1] if c.run else (False, False)


def findings(given: Given) -> str:
    """In HTML, the `chosen` numbered."""
    lines = []
    for c, a in chosen(given):
        links = [(f"{c.file}.html#{a.claim}", c.title), (f"claims.html#{a.claim}", "the claim")]
        lines.append(finding(a, links))
    none = "<p>No run has decided a claim yet: <code>guidebook run mnist</code> begins.</p>"
    return f'<ol class="findings">{"".join(lines)}</ol>' if lines else none


def scale(chapters: Sequence[Chapter], runs: Sequence[Run]) -> str:
    """One line on how much evidence there is; `runs` are those of the chapters and their variants."""
    shown = [r for r in runs if r.params.profile != "smoke" and r.finished]
    seen = sum(r.provenance().get("images_seen") or 0 for r in shown)
    shares = [share(c.run.params, c.run.provenance().get("images_seen")) or 0 for c in chapters]
    short = shares and max(shares) < 0.9
    return (
        f"{len(chapters)} runs of {len({c.page[0] for c in chapters})} experiments, {len(shown)} trainings, {seen:,} images seen in "
        f"training, {sum(len(r.metrics()) for r in shown):,} measured values, {len(every())} claims."
        + (f" The furthest went through {percent(max(shares), 1)} of its published training." if short else "")
    )


def strips(chapters: Sequence[Chapter], folder: Path) -> str:
    """In HTML: ten samples of the strongest run on each data set, those first that a judge reads most nearly as well as real images.

    Images that were taken stand alone where there are two sets of them. The samples are saved in `folder` pixel by pixel.
    """
    first, best = {}, []
    for c in sorted(chapters, key=_rank):
        first.setdefault(c.run.params.data.name, c)
    real = [c for c in first.values() if not _rank(c)[0]]
    for c in real if len(real) > 1 else first.values():
        ceiling = pick(c.run.metrics(), "adherence", guidance=None)
        read = [r for r in usual(c.run, "adherence") if r["guidance"] <= LARGEST and ceiling]
        best += [(r["value"] / ceiling["value"], c, r) for r in sorted(read, key=lambda r: r["value"])[-1:]]
    lines = []
    for _, c, r in sorted(best, key=lambda found: -found[0])[:STRIPS]:
        with suppress(NotRecorded, Corrupt):
            pixels = sample_set(c.run, r["draw"]).pixels[:10]
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{c.run.params.experiment}.png"
            strip(pixels).save(file, optimize=True)
            data = c.run.params.data.entry.note.partition(":")[
                0
            ]  # of what the run drew, whatever its experiment is called
            size = "×".join(map(str, pixels.shape[-2:]))
            words = escaped(f"{data[:1].upper()}{data[1:]}, {size}, w = {r['guidance']:g}")
            image = f'<img src="{folder.name}/{file.name}" alt="{len(pixels)} samples of {words}">'
            lines.append(f'<a href="{c.file}.html"><span>{words}</span>{image}</a>')
    return f'<div class="strips">{"".join(lines)}</div>'

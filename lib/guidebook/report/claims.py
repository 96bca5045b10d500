"""Claims of the documents: rows of `book/claims.yml`, answered by the notebooks that test them."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from guidebook.config.errors import ParamsError, one_line, shown
from guidebook.config.params import check
from guidebook.config.paths import BOOK
from guidebook.config.schema import Line, Section, Tuple, Word
from guidebook.config.yamlfile import read
from guidebook.metrics.compare import ALPHA, FAILS, HOLDS, UNDECIDED, Verdict
from guidebook.metrics.groups import SHARES
from guidebook.report.banner import fraction, stands_in
from guidebook.report.tables import Html, escaped, table
from guidebook.runs.run import Run

FILE, MARK = BOOK / "claims.yml", "guidebook_claims"
# The class and the glyph of each
OUTCOMES = {HOLDS: ("holds", "✓"), FAILS: ("fails", "✗"), UNDECIDED: ("undecided", "?"), "open": ("open", "…")}


class Settled(Section):
    """The answer that a document's own numbers or words give."""

    found: Line
    verdict: Literal["holds", "does not hold"]


class Claim(Section):
    """One claim of one document."""

    id: Word
    source: Annotated[str, Field(pattern=r"^[a-z0-9]+$")]  # its key in references.bib
    where: Line
    says: Line
    kind: Literal["count", "contradiction", "samples", "training", "speed", "fact"]  # of what can answer it
    open: Line | None = None  # what will answer it, where nothing does yet
    answer: Settled | None = None
    # Rows of `book/atlas.yml` that answer it, all of which must hold
    atlas: Annotated[tuple[Word, ...], Tuple(0, 9)] = ()

    def conflicts(self):
        if sum(map(bool, (self.open, self.answer, self.atlas))) > 1:
            yield f"{self.id}: give one of open, answer and atlas, or none where a notebook answers"


class Claims(Section):
    claims: Annotated[tuple[Claim, ...], Tuple(1, 1000)]

    def conflicts(self):
        ids = [c.id for c in self.claims]
        if twice := {i for i in ids if ids.count(i) > 1}:
            yield f"claims: {sorted(twice)} stand twice"


class Answer(NamedTuple):
    """The answer of one run to a claim."""

    claim: str  # its id
    found: str
    verdict: str  # one of OUTCOMES
    note: str = ""  # what it rests on
    # the difference that decided, with its interval
    effect: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    p: float | None = None  # the least level at which it decides so; None where it rests on no draw


@functools.cache
def every() -> dict[str, Claim]:
    """All claims by id, in the order of the file. Raises ParamsError."""
    return {c.id: c for c in check(read(FILE), FILE.name, Claims).claims}


class Answers:
    """Answers of a run (None: of no model) as a table of its notebook, from which `answers` reads them for the page of all claims.

    A row is a claim's id, what was found, the verdict, and the run that it rests on where that is a variant: a verdict is a
    `compare.Verdict`, or one of OUTCOMES with a note and, of a test, its level. A claim about training
    is undecided where one training of each kind was compared, and every claim where `broken`, of all or by claim, says what is wrong with the model.
    Raises KeyError for a claim that the file lacks, ValueError for another outcome.
    """

    def __init__(self, run: Run | None, rows: Iterable[tuple], broken: str | dict | None = None):
        self.answers = []
        for claim, found, verdict, *variant in rows:
            if claim not in every():
                raise KeyError(f"{claim} is no claim of {FILE.name}: add it there")
            fault = broken.get(claim) if isinstance(broken, dict) else broken
            outcome, note, effect, p = _decided(every()[claim], verdict, fault)
            on = "" if every()[claim].kind == "speed" or not run else fraction(*(variant or [run]))
            if outcome not in OUTCOMES:
                raise ValueError(f"{claim}: {outcome!r:.60} is no outcome; there are {', '.join(OUTCOMES)}")
            self.answers.append(Answer(claim, found, outcome, "; ".join(filter(None, (note, on))), effect, p))

    def _repr_html_(self) -> tuple[str, dict]:
        parts = [a.note.split("; ") for a in self.answers]
        of = [own for a, own in zip(self.answers, parts, strict=True) if every()[a.claim].kind != "speed"]
        of_all = [part for part in of[0] if all(part in own for own in of)] if len(of) > 1 else []
        rows, missing = [], []
        for a, own in zip(self.answers, parts, strict=True):
            cells = every()[a.claim].says, a.found, "; ".join(part for part in own if part not in of_all)
            if a.note.startswith("what would decide") and "[" not in a.found:
                missing.append(f'<span id="{a.claim}" class="verdict undecided long">{escaped(cells[0])}</span>')
            else:
                rows.append((marked(a.verdict, a.claim), *cells))
        if missing:
            rows.append((marked(UNDECIDED), "not measured in this run", Html("<br>".join(missing)), ""))
        but = "" if len(of) == len(parts) else ", but for those on speed"
        shared = f"All rest on this{but}: {escaped('; '.join(of_all))}. " if of_all else ""
        shared = f'<div class="rests">{shared}A difference above zero speaks for the claim.</div>'
        return shared + table(["verdict", "published", "this run found", "rests on"], rows).text, {MARK: self.answers}


def _decided(claim: Claim, verdict: Verdict | tuple[str, str], broken: str | None) -> tuple:
    """Outcome, note, effect and p of a verdict. Of an outcome with a note, p is the level of the test that a third element names."""
    broken = broken if claim.kind in ("samples", "training") else None
    if not isinstance(verdict, Verdict):
        outcome, note, *level = verdict
        if outcome in (HOLDS, FAILS):
            return (UNDECIDED, broken, None, None) if broken else (outcome, note, None, level[0] if level else ALPHA)
        why = (outcome == UNDECIDED and note) or broken or note  # what a row says of itself comes first
        return UNDECIDED if broken else outcome, why, None, 1.0 if level and not broken else None
    if verdict.interval is None:
        return UNDECIDED, "what would decide was not measured in this run", None, None
    value, low, high = verdict.interval
    scale, unit = (100, " percentage points") if verdict.of in SHARES else (1, "")
    of = f" of {verdict.of}" if verdict.of else ""
    of += f", {' less '.join(verdict.sides)}:" if verdict.sides else ""
    note = f"difference{of} {scale * value:+.3g} [{scale * low:.3g}, {scale * high:.3g}]{unit}"
    if claim.kind == "training" and verdict.trainings > 1:
        note += f" over {verdict.trainings} trainings"
    elif claim.kind == "training":
        broken = broken or "one training of each: another seed may decide otherwise"
    decided = verdict.outcome, note, [value, low, high], verdict.p
    return (UNDECIDED, f"{broken}; {note}", None, None) if broken else decided


def marked(verdict: str, anchor: str = "", together: str = "") -> Html:
    """A verdict with its glyph, the class that colours it, the anchor of its claim, and the class by which the claim's rows are filtered."""
    kind, glyph = OUTCOMES[verdict]
    name, of = f' id="{anchor}"' if anchor else "", f" of-{OUTCOMES[together][0]}" if together else ""
    return Html(f'<span{name} class="verdict {kind}{of}">{glyph} {verdict}</span>')


def together(answers: list[Answer]) -> str:
    """One outcome for a claim that several runs answer: that of those which decide at their share of the level, where they agree.

    Each run that could decide has an equal share (Bonferroni), so that more runs decide no oftener where there is no effect.
    """
    tests = sum(a.p is not None for a in answers)
    decided = {a.verdict for a in answers if a.verdict in (HOLDS, FAILS) and (a.p is None or a.p * tests <= ALPHA)}
    if not decided:
        return UNDECIDED if tests else answers[0].verdict
    return decided.pop() if len(decided) == 1 else UNDECIDED


def forest(answers: list[Answer]) -> str:
    """A forest plot in HTML: the difference that each answer rests on, in half widths of its 95 % interval, so that ±1 decides.

    Each answer has a picture of its own, whose places are shares of its width: words are as large on a narrow page as on a wide one.
    """
    decided, reach = [a for a in answers if a.effect], 8.0
    if not decided:
        return ""
    lines = []
    for answer in decided:
        value, low, high = answer.effect
        x = max(-reach, min(reach, 2 * value / max(high - low, 1e-12)))
        left, middle, right = (f"{50 + 50 * at / (reach + 2):.1f}%" for at in (x - 1, x, x + 1))
        kind, glyph = OUTCOMES[answer.verdict]
        data = " stand-in" if stands_in(answer.note) else ""
        says = escaped(every()[answer.claim].says if answer.claim in every() else answer.claim)
        lines.append(
            f'<div class="verdict {kind}{data}"><span><a href="#{answer.claim}" title="{says}">{says}</a></span>'
            f'<svg role="img"><title>{escaped(f"{answer.claim}: {answer.note}")}</title>'
            f'<line class="zero" x1="50%" x2="50%" y1="0" y2="100%"/><line x1="{left}" x2="{right}" y1="50%" y2="50%"/>'
            f'<circle cx="{middle}" cy="50%" r="4"/></svg><span>{glyph} {answer.verdict}</span></div>'
        )
    words = "against the claim · no difference · for the claim"
    below = f'<div><span></span><span class="words">{words}</span></div>'
    label = "Differences that verdicts rest on"
    return f'<div class="forest" role="group" aria-label="{label}">{"".join(lines)}{below}</div>'


def broken(unguided: dict, real: dict, classes: int) -> str | None:
    """Why a model gives no verdicts: a judge reads its samples at w = 1 less well than half way from chance to real images."""
    if unguided["value"] >= (real["value"] + 1 / classes) / 2:
        return None
    read, of_real, guessed = (f"{100 * share:.3g} %" for share in (unguided["value"], real["value"], 1 / classes))
    return f"without guidance the adherence of the model's samples is {read}, less than half way from chance ({guessed}) to real images ({of_real})"


def answers(notebook: Path) -> list[Answer]:
    """The answers in an executed notebook. Raises ParamsError where they are none that `Answers` gives."""
    outputs = [o for c in json.loads(notebook.read_text())["cells"] for o in c.get("outputs", [])]
    rows = [a for o in outputs for a in o.get("metadata", {}).get("text/html", {}).get(MARK, [])]
    try:
        found = TypeAdapter(list[Answer]).validate_python(rows)
    except ValidationError as error:
        raise ParamsError(one_line(error, notebook.name)) from None
    if odd := next((a for a in found if a.claim not in every() or a.verdict not in OUTCOMES), None):
        raise ParamsError(f"{notebook.name}: {shown(odd.claim)}, {shown(odd.verdict)} is no answer to a claim")
    return found


def from_atlas(claim: Claim) -> Answer | None:
    """The answer of the atlas to a claim of sizes and costs, where it names rows of it."""
    if not claim.atlas:
        return None
    found, verdicts = zip(*(_atlas()[row] for row in claim.atlas), strict=True)
    failed = [verdict.partition(": ")[2] for verdict in verdicts if verdict != HOLDS]
    return Answer(claim.id, "; ".join(dict.fromkeys(found)), FAILS if failed else HOLDS, "; ".join(failed))


@functools.cache
def _atlas() -> dict[str, tuple[str, str]]:
    from guidebook.models.atlas import load_atlas
    from guidebook.models.counting import answers, counted

    return answers(known := load_atlas(), counted(known))

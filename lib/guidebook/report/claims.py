"""Claims of the documents: rows of `book/claims.yml`, answered by the notebooks that test them."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from guidebook.config.params import check, load
from guidebook.config.paths import BOOK
from guidebook.config.schema import Section, Tuple, Word
from guidebook.config.yamlfile import read
from guidebook.report.tables import table

FILE, MARK = BOOK / "claims.yml", "guidebook_claims"
Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}]+$")]


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
    stated: Annotated[float, Field(gt=0)] | None = None  # the number of parameters it states
    parameters: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")] | None = None  # the profile that has them

    def conflicts(self):
        if (self.stated is None) != (self.parameters is None):
            yield f"{self.id}: stated and parameters go together"


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
    verdict: str


@functools.cache
def every() -> dict[str, Claim]:
    """All claims by id, in the order of the file. Raises ParamsError."""
    return {c.id: c for c in check(read(FILE), FILE.name, Claims).claims}


class Answers:
    """Answers as a table of a notebook, from which `answers` reads them for the page of all claims."""

    def __init__(self, answers: Iterable[tuple[str, str, str]]):  # (claim's id, what was found, verdict)
        self.answers = [Answer(*a) for a in answers]
        if unknown := [a.claim for a in self.answers if a.claim not in every()]:
            raise KeyError(f"{unknown} are no claims of {FILE.name}: add them there")

    def _repr_html_(self) -> tuple[str, dict]:
        rows = [(every()[a.claim].says, a.found, a.verdict) for a in self.answers]
        return table(["published", "this run found", "verdict"], rows).text, {MARK: self.answers}


def answers(notebook: Path) -> list[Answer]:
    """The answers in an executed notebook."""
    outputs = [o for c in json.loads(notebook.read_text())["cells"] for o in c.get("outputs", [])]
    return [Answer(*a) for o in outputs for a in o.get("metadata", {}).get("text/html", {}).get(MARK, [])]


def configured(claim: Claim) -> Answer:
    """The number of parameters of the document's own configuration, where it states one."""
    from guidebook.models.cost import cost

    count = cost(load(*claim.parameters.split("/"))).parameters
    ratio = count / claim.stated
    times = f"{ratio:.2g} times as many" if ratio > 1 else f"{1 / ratio:.2g} times fewer"
    verdict = "holds" if max(ratio, 1 / ratio) < 1.05 else f"does not hold: it is {times}"
    return Answer(claim.id, f"its configuration ({claim.parameters}.yml) has {count:,}", verdict)

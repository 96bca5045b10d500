"""What the documents claim, and what was found: rows that are data, in `book/claims.yml` and in the executed notebooks."""

import functools
import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from guidebook.config.params import check, load
from guidebook.config.paths import BOOK
from guidebook.config.schema import Section, Tuple, Word
from guidebook.config.yamlfile import read

FILE, MARK = BOOK / "claims.yml", "guidebook_claims"
Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}]+$")]


class Claim(Section):
    """One claim of one document."""

    id: Word
    source: Annotated[str, Field(pattern=r"^[a-z0-9]+$")]  # its key in references.bib
    where: Line
    says: Line
    stated: Annotated[float, Field(gt=0)] | None = None  # the number of parameters it states
    # The experiment/profile that has them
    parameters: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")] | None = None

    @model_validator(mode="after")
    def _together(self):
        if (self.stated is None) != (self.parameters is None):
            raise ValueError(f"{self.id}: stated and parameters go together")
        return self


class Claims(Section):
    claims: Annotated[tuple[Claim, ...], Tuple(1, 1000)]

    @model_validator(mode="after")
    def _distinct(self):
        ids = [c.id for c in self.claims]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"claims: {sorted(twice)} stand twice")
        return self


@dataclass(frozen=True)
class Answer:
    """What one run found about a claim."""

    claim: str  # its id
    found: str
    verdict: str


@functools.cache
def every() -> dict[str, Claim]:
    """All claims by id, in the order of the file. Raises ParamsError."""
    return {c.id: c for c in check(read(FILE), FILE.name, Claims).claims}


class Answers:
    """Answers as a table in a notebook; the page of all claims finds them in the executed notebook."""

    def __init__(self, answers: Iterable[tuple[str, str, str]]):  # (claim's id, what was found, verdict)
        self.answers = [Answer(*a) for a in answers]
        if unknown := [a.claim for a in self.answers if a.claim not in every()]:
            raise KeyError(f"{unknown} are no claims of {FILE.name}: add them there")

    def _repr_html_(self) -> tuple[str, dict]:
        rows = [(every()[a.claim].says, a.found, a.verdict) for a in self.answers]
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        head = "".join(f"<th>{h}</th>" for h in ("published", "this run found", "verdict"))
        text = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return text, {MARK: [[a.claim, a.found, a.verdict] for a in self.answers]}


def answers(notebook: Path) -> list[Answer]:
    """What an executed notebook answered."""
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [o for c in cells for o in c.get("outputs", [])]
    return [Answer(*a) for o in outputs for a in o.get("metadata", {}).get("text/html", {}).get(MARK, [])]


def configured(claim: Claim) -> Answer:
    """What the document's own configuration gives, where it states a number of parameters."""
    from guidebook.models.cost import cost

    count = cost(load(*claim.parameters.split("/"))).parameters
    ratio = count / claim.stated
    near = max(ratio, 1 / ratio) < 1.05
    verdict = "holds" if near else f"does not hold: it is {ratio:.2g} times as many" if ratio > 1 else (
        f"does not hold: it is {1 / ratio:.2g} times fewer"
    )  # fmt: skip
    return Answer(claim.id, f"its configuration ({claim.parameters}.yml) has {count:,}", verdict)

"""Kinds of the values in a run's files on which tables and pages rely: a record may be a stranger's."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from guidebook.config.errors import one_line

Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Whole = Annotated[int, Field(ge=0, le=10**15)]


class Facts(BaseModel):
    """Values by name, among others on which nothing relies."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Provenance(Facts):
    images_seen: Whole = 0
    train_seconds: Number = 0
    data_note: str | None = None
    caveat: str | None = None
    commit: str | None = None
    versions: dict[str, Any] = {}
    data: dict[str, Any] = {}
    last_decay: dict[str, Number] = {}
    moved: dict[str, Number] = {}


class Line(Facts):
    """A line of statistics."""

    nimg: Whole
    loss: Number | None = None
    images_per_s: Annotated[Number, Field(gt=0)] | None = None
    largest_logit: Number | None = None
    attention_entropy: Number | None = None


class Measured(Facts):
    """A metric record."""

    metric: str
    value: Number
    low: Number
    high: Number
    n: Whole
    guidance: Number | None
    interval: str = ""
    extractor: str = ""
    reference: str | None = None
    draw: dict | None = None
    set: str = ""
    group: str = ""
    attribute: str | None = None


@functools.lru_cache(maxsize=64)
def held(how: Callable[[Path], Any], kind: Any, file: Path, *state: int) -> tuple[Any, str | None]:
    """The facts of a file, and those unfit of them, read once while it is in its state: a page asks for every group of every set."""
    value = how(file)
    return value, unfit(value, kind)


def unfit(value: Any, kind: Any) -> str | None:
    """The first value that is not of its kind, and what is allowed there: `key = value: …`. None where all are."""
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return one_line(error, "").removeprefix(": ")

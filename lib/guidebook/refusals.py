"""How parameters are refused: in one line that says what was given, what is allowed and what is near."""

import difflib
import math
import reprlib
from typing import Any

from pydantic import BaseModel, ValidationError


def nearest(word: str, names: list[str]) -> str:
    """` (nearest: lr)`, or nothing where no name is near."""
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""


def one_line(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """The first error as one line: the key, the value, what is allowed, the nearest key."""
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    loc = [str(p)[:60].encode("unicode_escape").decode() for p in first["loc"]]
    value, key = first["input"], ".".join(loc)
    shown = _shown(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if first["type"] in ("extra_forbidden", "missing"):
        owner = model if len(loc) == 1 else model.model_fields[loc[0]].annotation
        names = list(owner.model_fields)
        said = "is not a parameter" + nearest(loc[-1], names) if first["type"] == "extra_forbidden" else "is missing"
        text = f"{key} {said}; allowed there: {', '.join(names)}"
    else:
        hint = first["msg"].removeprefix("Value error, ")
        if isinstance(value, str) and _is_number(value):
            hint += "; it is text: YAML needs a dot and a sign in a power of ten (1.0e-4)"
        text = f"{key} = {shown}: {hint}" if key else hint
    return f"{where}: {text}" + (f" (and {more} more)" if more else "")


def _shown(value: Any) -> str:
    """A value on one line, without writing out what aliases or thousands of digits make of it."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        return " ".join(short.repr(value).split())
    except ValueError:
        return "a number of thousands of digits"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

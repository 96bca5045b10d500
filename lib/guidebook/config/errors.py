"""Refusal of parameters in one line: the key, its value, what is allowed there and the nearest key."""

import difflib
import math
import reprlib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class ParamsError(ValueError):
    """Parameters that cannot be run. Its message is one line."""


def nearest(word: str, names: list[str]) -> str:
    """` (nearest: lr)`, or nothing where no name is near."""
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f" (nearest: {close[0]})" if close else ""


def plain(text: Any) -> str:
    """Any text on one line: white space becomes one blank, what cannot be printed is written as its escape."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def one_line(error: ValidationError, where: str, model: type[BaseModel], raw: Any) -> str:
    """The most telling error of `raw`, which `model` refused."""
    # A misspelt key is both missing and unknown: the unknown one is the mistake.
    errors = sorted(error.errors(include_url=False), key=lambda e: e["type"] == "missing")
    first, more = errors[0], len(errors) - 1
    loc = [str(p).encode("unicode_escape").decode()[:60] for p in first["loc"]]
    value, key = shown(first["input"]), ".".join(loc)
    if first["type"] in ("extra_forbidden", "missing"):
        names = list(_owner(model, first["loc"], raw).model_fields)
        unknown = f"is not a parameter{nearest(loc[-1], names)}; its value is {value}"
        text = f"{key} {unknown if first['type'] == 'extra_forbidden' else 'is missing'}; allowed there: {', '.join(names)}"
    else:
        hint = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], str) and _is_number(first["input"]):
            hint += "; it is text: YAML needs a dot and a sign in a power of ten (1.0e-4)"
        if first["type"] == "tuple_type":
            hint = "it is a list, written with brackets: [1, 2]"
        # An error of a section as a whole names its values itself.
        text = hint if first["type"] == "value_error" else f"{key} = {value}: {hint}"
    return f"{plain(where)}: {text}" + (f" (and {more} more)" if more else "")


def shown(value: Any) -> str:
    """A value on one line of at most 60 characters, without writing out what aliases or thousands of digits make of it."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        text = plain(short.repr(value))
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _owner(model: type[BaseModel], loc: tuple, raw: Any) -> type[BaseModel]:
    """The class of the section that the last part of `loc` is, or should be, a key of."""
    for part in loc[:-1]:
        raw = raw[part]
        if isinstance(part, str):
            model = next(_classes(model.model_fields[part].annotation))
        if isinstance(raw, dict) and hasattr(model, "kinds"):
            model = model.kinds().get(raw.get("kind"), model)
    return model


def _classes(annotation: Any):
    """The sections in an annotation such as tuple[Method, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

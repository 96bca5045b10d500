"""Refusal of parameters in one line: the key, its value, what is allowed there and the nearest key."""

import difflib
import math
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError


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


def unknown(key: Any, names: Iterable[str], value: Any) -> PydanticCustomError:
    """The error of a key that a section does not have."""
    name, names = key if isinstance(key, str) else shown(key), list(names)
    text = f"is not a parameter{nearest(name, names)}; its value is {shown(value)}; allowed there: {', '.join(names)}"
    return PydanticCustomError("unknown", "{text}", {"key": name, "text": text})


def one_line(error: ValidationError, where: str) -> str:
    """The most telling error as one line."""
    first, *more = error.errors(include_url=False)
    path = [*first["loc"], *([first["ctx"]["key"]] if first["type"] == "unknown" else [])]
    key, hint = ".".join(str(p).encode("unicode_escape").decode()[:60] for p in path), first["msg"]
    with suppress(ValueError):  # of text that is no number
        if isinstance(first["input"], str) and math.isfinite(float(first["input"])):
            hint += "; it is text: YAML needs a dot and a sign in a power of ten (1.0e-4)"
    text = {
        "unknown": f"{key} {hint}",
        "missing": f"{key} is missing",
        # Of a section as a whole: it names its values itself, but not which of a list it is
        "value_error": (f"{key}: " if len(first["loc"]) > 2 else "") + hint.removeprefix("Value error, "),
        "tuple_type": f"{key} = {shown(first['input'])}: it is a list, written with brackets: [1, 2]",
    }.get(first["type"], f"{key} = {shown(first['input'])}: {hint}")
    return f"{plain(where)}: {text}" + (f" (and {len(more)} more)" if more else "")


def shown(value: Any) -> str:
    """A value on one line of at most 60 characters; aliases and long numbers are not written out."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    try:
        text = plain(short.repr(value))
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."

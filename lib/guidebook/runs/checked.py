"""Files that change and hold a checksum of themselves: JSON, lines of JSON, text. Without one they are older, and believed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

KEY = "sha256"


def checksum(value: Any, before: str = "") -> str:
    """16 hex digits of JSON, and of a checksum before it."""
    return hashlib.sha256((before + json.dumps(value)).encode()).hexdigest()[:16]


def dumps(facts: dict) -> str:
    """JSON with its checksum as the last of the facts."""
    return json.dumps(facts | {KEY: checksum(facts)}, indent=1, allow_nan=False)


def load(file: Path) -> Any:
    """The JSON, an object or a list of them, in a file that `dumps` made. Raises ValueError where it is not what was written."""
    value = _parsed(file.read_bytes())
    if isinstance(value, dict) and (found := value.pop(KEY, None)) and found != checksum(value):
        raise ValueError
    return value


def load_records(file: Path) -> Any:
    """The `records` in a file that `dumps` made; of an older one, the list that it is. Raises ValueError."""
    value = load(file)
    return value.get("records") if isinstance(value, dict) else value


def dumps_lines(lines: Iterable[dict], before: str = "") -> tuple[str, str]:
    """Lines of JSON, each with a checksum of it and of all before it, whose last one is `before`; and the last of theirs."""
    text = ""
    for facts in lines:
        before = checksum(facts, before)
        text += json.dumps(facts | {KEY: before}) + "\n"
    return text, before


def load_lines(file: Path) -> list[dict]:
    """The facts of the lines that `dumps_lines` made; one that is being written is left out. Raises ValueError."""
    lines = [_parsed(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    before = ""
    for line in lines if any(KEY in line for line in lines) else ():
        found, before = line.pop(KEY, None), checksum(line, before)
        if found != before:
            raise ValueError
    return lines


def with_comment(text: str) -> str:
    """Text under a comment with its checksum. It comes first, for a file may be cut."""
    return f"# {KEY} {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_text(file: Path) -> None:
    """Raises ValueError where the text in a file is not what was written there `with_comment`, or nothing is left of it."""
    whole, mark = file.read_text(), f"# {KEY} "
    if mark.startswith(whole[: len(mark)]) and with_comment(whole.partition("\n")[2]) != whole:
        raise ValueError


_parsed = TypeAdapter(dict | list[dict]).validate_json  # raises ValidationError, a ValueError

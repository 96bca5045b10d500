"""The template of class captions: whatever is put in for `{label}` has to reach the model. Imports no torch."""

import re
from collections.abc import Iterator

from guidebook.config.errors import nearest, shown
from guidebook.config.schema import Data


def misfits(data: Data, tokens: int) -> Iterator[str]:
    """Why captions of so many tokens do not tell the classes of a set apart."""
    caption, entry = data.caption, data.entry
    if caption is None or (data.phrasings and not entry.captioned):
        yield f"data.caption = null and data.phrasings are for faces; data.name = {data.name} needs a caption"
        return
    if wrong := set(re.findall(r"{\w*}", caption)) - {"{label}"}:
        word = min(wrong)
        yield f"data.caption = {shown(caption)}: {word} is not known{nearest(word, ['{label}'])}"
    if "{label}" not in caption:
        yield f"data.caption = {shown(caption)} holds no {{label}}, so that every class has the same caption"
    read: dict[tuple[str, ...], str] = {}
    for name in entry.classes:
        # A word is a token at least, and so are the start and the end
        words = re.findall(r"\w+|[^\w\s]+", caption.replace("{label}", name).lower())[: tokens - 2]
        if (other := read.setdefault(tuple(words), name)) != name:
            yield f"text.tokens = {tokens} cuts the captions of {shown(other)} and {shown(name)} to the same words"

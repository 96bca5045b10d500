"""The template of class captions: whatever is put in for `{label}` has to reach the model. Imports no torch."""

import re
from collections.abc import Hashable, Iterable, Iterator

from guidebook.config.errors import nearest, shown
from guidebook.config.schema import Data


def misfits(data: Data, tokens: int) -> Iterator[str]:
    """Why captions of so many tokens do not tell the classes of a set apart."""
    caption, entry = data.caption, data.entry
    if caption is None or (data.phrasings and not entry.captioned):
        yield f"data.caption = null and data.phrasings are for faces; data.name = {data.name} needs a caption"
        return
    if wrong := set(re.findall(r"{\w{2,}}", caption)) - {"{label}"}:
        word = min(wrong)
        yield f"data.caption = {shown(caption)}: {word} is not known{nearest(word, ['{label}'])}"
    if "{label}" not in caption:
        yield f"data.caption = {shown(caption)} holds no {{label}}, so that every class has the same caption"
        return
    # A word is a token at least, and so are the start and the end
    full = [tuple(re.findall(r"\w+|[^\w\s]+", caption.replace("{label}", name).lower())) for name in entry.classes]
    read = [words[: tokens - 2] for words in full]
    if (alike := same(read)) and (not entry.captioned or len(set(read)) == 1 < len(set(full))):
        one, other = (shown(entry.classes[i]) for i in alike)
        yield f"text.tokens = {tokens} cuts the captions of {one} and {other} to the same words"


def same(items: Iterable[Hashable]) -> tuple[int, int] | None:
    """Where an item stands that stood before, and where it stood first; None where all differ."""
    first: dict[Hashable, int] = {}
    return next(((first[x], i) for i, x in enumerate(items) if first.setdefault(x, i) != i), None)

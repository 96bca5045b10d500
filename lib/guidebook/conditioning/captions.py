"""Captions of images: one sentence per class, one of its own, or a sentence built from the attributes of a face."""

import re
from collections.abc import Sequence

from guidebook.conditioning.grammar import PHRASES, WOMAN, attribute_caption, bits, gender, mentioned
from guidebook.config import own
from guidebook.config.params import Params
from guidebook.config.pretrained import EMBEDDED

# The words of a caption of attributes besides those of its attributes
FRAME = "A photo of a, an, with hair and nose, face, sporting, wearing"
WORD = re.compile(r"\w+|[^\w\s]")
NULL = ""  # the null caption, of unconditional predictions


def class_captions(template: str, classes: tuple[str, ...]) -> list[str]:
    """One caption per class, in label order: `A handwritten digit {label}` with the name of the class put in."""
    return [template.replace("{label}", name) for name in classes]


def sayable(params: Params) -> list[str]:
    """Texts that together hold every word of a run's captions."""
    entry, template = params.data.entry, params.data.caption
    if not entry.attributes:
        return class_captions(template, own.found(params.data.path).captions if entry.captioned else entry.classes)
    return [
        FRAME,
        *WOMAN,
        *(way for ways in PHRASES.values() for way in ways),
        (template or "").replace("{gender}", ""),
    ]


def words(params: Params) -> list[str]:
    """Every word of a run's captions, in lower case and in order; signs are words."""
    return sorted({word for text in sayable(params) for word in WORD.findall(text.lower())})


def check_prompts(params: Params, prompts: Sequence[str]) -> None:
    """Raises ValueError for a word that no caption of the run has, where the stand-in text encoder takes words without meaning."""
    known = words(params) if params.text.encoder == EMBEDDED else None
    said = {word for prompt in prompts for word in WORD.findall(prompt.lower())}
    if known and (unknown := sorted(said - set(known))):
        raise ValueError(f"the run's captions have no {listed(unknown)}, but {listed(known)}")


def listed(words: Sequence[str]) -> str:
    """Words in a row, signs quoted: `',', zebra`."""
    return ", ".join(word if word.isalnum() else repr(word) for word in words)


def caption_of(params: Params, label: int, index: int, epoch: int | None = None) -> str:
    """The caption of sample number `index`; with `epoch`, of training image number `index` in that epoch."""
    entry, template = params.data.entry, params.data.caption
    if not entry.attributes:
        known = entry.classes if label < len(entry.classes) else own.found(params.data.path).captions
        return class_captions(template, (known[label],))[0]
    if template:
        return template.replace("{gender}", gender(label))
    seed, index, epoch = wording(params, index, epoch)
    return attribute_caption(label, seed, index, epoch)


def label_of(params: Params, prompt: str) -> int:
    """The class whose caption is the prompt; -1 where it is none's."""
    captions = [] if params.data.entry.attributes else class_captions(params.data.caption, params.data.entry.classes)
    return captions.index(prompt) if prompt in captions else -1


def told(params: Params, attributes: int, index: int) -> int:
    """The attributes that the caption of sample number `index` mentions."""
    return attributes & bits(["Male"]) if params.data.caption else mentioned(attributes, *wording(params, index))


def wording(params: Params, index: int, epoch: int | None = None) -> tuple[int, int, int]:
    """(seed, index, epoch), from which the words of an attribute caption are drawn; `data.phrasings` epochs differ, then repeat."""
    if epoch is None:
        return params.sample.seed, index, 0
    return params.train.seed, index, epoch % params.data.phrasings if params.data.phrasings else epoch

"""Captions of images: one sentence per class, or a sentence built from the attributes of a face."""

from guidebook.conditioning.grammar import attribute_caption, bits, gender, mentioned
from guidebook.config.params import Params

NULL = ""  # the null caption, of unconditional predictions


def class_captions(template: str, classes: tuple[str, ...]) -> list[str]:
    """One caption per class, in label order: `A handwritten digit {label}` with the name of the class put in."""
    return [template.replace("{label}", name) for name in classes]


def caption_of(params: Params, label: int, index: int, epoch: int | None = None) -> str:
    """The caption of sample number `index`; with `epoch`, of training image number `index` in that epoch."""
    entry, template = params.data.entry, params.data.caption
    if not entry.attributes:
        return class_captions(template, (entry.classes[label],))[0]
    if template:
        return template.replace("{gender}", gender(label))
    return attribute_caption(label, *wording(params, index, epoch))


def told(params: Params, attributes: int, index: int) -> int:
    """The attributes that the caption of sample number `index` mentions."""
    return attributes & bits(["Male"]) if params.data.caption else mentioned(attributes, *wording(params, index))


def wording(params: Params, index: int, epoch: int | None = None) -> tuple[int, int, int]:
    """(seed, index, epoch), from which the words of an attribute caption are drawn; `data.phrasings` epochs differ, then repeat."""
    if epoch is None:
        return params.sample.seed, index, 0
    return params.train.seed, index, epoch % params.data.phrasings if params.data.phrasings else epoch

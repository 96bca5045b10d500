"""Captions: what the model is told about an image.

Of a class, one sentence. Of a face, a sentence built by rule from its attributes (`guidebook.config.datasets.ATTRIBUTES`), which
travel as a whole number: bit i is the i-th attribute.
"""

import functools
import hashlib
from collections.abc import Iterable

from guidebook.config.datasets import ATTRIBUTES

NULL = ""  # the null caption: what guidance calls unconditional

# Two ways to say each attribute.
PHRASES = {
    "5_o_Clock_Shadow": ("stubble", "light stubble"),
    "Arched_Eyebrows": ("arched eyebrows", "curved eyebrows"),
    "Attractive": ("attractive", "good-looking"),
    "Bags_Under_Eyes": ("bags under the eyes", "puffy eyes"),
    "Bald": ("a bald head", "a hairless head"),
    "Bangs": ("bangs", "a fringe"),
    "Big_Lips": ("big lips", "full lips"),
    "Big_Nose": ("big", "large"),
    "Black_Hair": ("black", "jet-black"),
    "Blond_Hair": ("blond", "fair"),
    "Blurry": ("blurry", "blurred"),
    "Brown_Hair": ("brown", "brunette"),
    "Bushy_Eyebrows": ("bushy eyebrows", "thick eyebrows"),
    "Chubby": ("chubby", "plump"),
    "Double_Chin": ("a double chin", "a second chin"),
    "Eyeglasses": ("eyeglasses", "glasses"),
    "Goatee": ("a goatee", "a chin beard"),
    "Gray_Hair": ("gray", "silver"),
    "Heavy_Makeup": ("heavy makeup", "a lot of makeup"),
    "High_Cheekbones": ("high cheekbones", "prominent cheekbones"),
    "Male": ("man", "gentleman"),
    "Mouth_Slightly_Open": ("with the mouth slightly open", "with parted lips"),
    "Mustache": ("a mustache", "a moustache"),
    "Narrow_Eyes": ("narrow eyes", "squinting eyes"),
    "No_Beard": ("clean-shaven", "without a beard"),
    "Oval_Face": ("oval", "egg-shaped"),
    "Pale_Skin": ("pale skin", "a pale complexion"),
    "Pointy_Nose": ("pointy", "pointed"),
    "Receding_Hairline": ("a receding hairline", "a high hairline"),
    "Rosy_Cheeks": ("rosy cheeks", "flushed cheeks"),
    "Sideburns": ("sideburns", "side whiskers"),
    "Smiling": ("smiling", "with a smile"),
    "Straight_Hair": ("straight", "sleek"),
    "Wavy_Hair": ("wavy", "rippling"),
    "Wearing_Earrings": ("earrings", "a pair of earrings"),
    "Wearing_Hat": ("a hat", "headwear"),
    "Wearing_Lipstick": ("lipstick", "lip color"),
    "Wearing_Necklace": ("a necklace", "a neck chain"),
    "Wearing_Necktie": ("a necktie", "a tie"),
    "Young": ("young", "youthful"),
}
WOMAN = ("woman", "lady")  # Male has a word either way: every caption names a person
# Said of most images that have them, not of all; everything else always.
MINOR = (
    "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Big_Lips", "Big_Nose", "Blurry", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "High_Cheekbones", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Rosy_Cheeks",
)  # fmt: skip
CORE = tuple(name for name in ATTRIBUTES if name not in MINOR)
KEPT = round(0.8 * 2**16)  # of 2¹⁶: how often a minor attribute is said
COLOURS, STYLES = ("Gray_Hair", "Blond_Hair", "Black_Hair", "Brown_Hair"), ("Straight_Hair", "Wavy_Hair")
BEARD = ("Goatee", "Mustache", "5_o_Clock_Shadow", "Sideburns")
# What contradicts an attribute is not said beside it. From the top: who is silent silences nobody.
SILENCES = {
    "Bald": (*COLOURS, *STYLES, "Bangs", "Receding_Hairline"),
    **{colour: COLOURS[i + 1 :] for i, colour in enumerate(COLOURS[:-1])},
    "Straight_Hair": ("Wavy_Hair",),
    "Bangs": ("Receding_Hairline",),
    "Arched_Eyebrows": ("Bushy_Eyebrows",),
    "Goatee": ("5_o_Clock_Shadow", "No_Beard"),
    "Mustache": ("No_Beard",),
    "5_o_Clock_Shadow": ("No_Beard",),
}
# The order in which the rest of the looks is told; a noun stands after its adjectives.
LOOKS = (
    "Bald", "Bangs", "Receding_Hairline", "Arched_Eyebrows", "Bushy_Eyebrows", "Narrow_Eyes", "Bags_Under_Eyes",
    ("Big_Nose", "Pointy_Nose", "nose"), "Big_Lips", "High_Cheekbones", "Rosy_Cheeks", ("Chubby", "Oval_Face", "face"),
    "Double_Chin", "Pale_Skin",
)  # fmt: skip
WORN = (
    "Wearing_Hat", "Eyeglasses", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie", "Wearing_Lipstick",
    "Heavy_Makeup",
)  # fmt: skip
# CLIP reads 77 tokens: where a caption would have more, minor attributes give way, the last of them first. Its merges make
# two tokens of each of these words, and one of every other word, comma and hyphen; so few attributes never make more.
TOKENS, FEW = 77, 13
IN_TWO = frozenset((
    "arched", "bushy", "cheekbones", "eyeglasses", "flushed", "goatee", "hairless", "hairline", "headwear", "necktie",
    "parted", "plump", "pointy", "receding", "rippling", "shaven", "sideburns", "squinting", "stubble", "whiskers",
))  # fmt: skip


def caption(template: str, label: str) -> str:
    """`A handwritten digit {label}` with the class name put in. A plain replacement: the template cannot reach further."""
    return template.replace("{label}", label)


def class_captions(template: str, classes: tuple[str, ...]) -> list[str]:
    """One caption per class, in label order."""
    return [caption(template, name) for name in classes]


def bits(names: Iterable[str]) -> int:
    """Attributes as a whole number."""
    return sum(_BIT[name] for name in set(names))


def active(attributes: int) -> list[str]:
    """The attributes of a whole number, in CelebA's order."""
    return [name for name, bit in _BIT.items() if attributes & bit]


def attribute_caption(attributes: int, seed: int, sample: int, epoch: int) -> str:
    """A sentence like "A photo of a young woman with straight blond hair and bangs, smiling, wearing earrings".

    Its words are a function of (attributes, seed, sample, epoch) alone. Nothing is said of an inactive attribute but of Male.
    """
    draw = _draw(seed, sample, epoch)
    return _sentence(_kept(consistent(attributes), draw), draw)


def said(attributes: int, seed: int, sample: int, epoch: int) -> int:
    """The attributes that `attribute_caption` speaks of."""
    return _kept(consistent(attributes), _draw(seed, sample, epoch))


@functools.lru_cache(maxsize=2**16)
def consistent(attributes: int) -> int:
    """The attributes that may be said together: of two that contradict each other, the first of the two in `SILENCES`."""
    if not attributes & _BIT["Male"]:
        attributes &= ~_OF_MEN  # of women most likely a wrong label, and that a woman has no beard is not worth saying
    for one, others in _SILENCED:
        if attributes & one:
            attributes &= ~others
    return attributes


def switched(attributes: int, name: str) -> int:
    """The attributes with one more, without those that would silence it; or without it, where it was among them."""
    if attributes & _BIT[name]:
        return attributes ^ _BIT[name]
    for one, others in _SILENCED:
        if others & _BIT[name]:
            attributes &= ~one
    return attributes | _BIT[name]


def _draw(seed: int, sample: int, epoch: int) -> int:
    """Random bits: bit i chooses the words of attribute i, 16 further ones whether a minor attribute is said."""
    return int.from_bytes(hashlib.blake2b(b"%d/%d/%d" % (seed, sample, epoch), digest_size=_BYTES).digest())


def _kept(attributes: int, draw: int) -> int:
    minor = attributes & _MINOR
    for i, bit in _MINOR_BITS if minor else ():
        if minor & bit and draw >> i & 0xFFFF >= KEPT:
            attributes ^= bit
    if attributes.bit_count() > FEW:
        for _, bit in reversed(_MINOR_BITS):
            if _length(attributes, draw) <= TOKENS:
                break
            attributes &= ~bit
    return attributes


def _length(told: int, draw: int) -> int:
    """CLIP's tokens of the caption that says these attributes, its start and its end among them."""
    second = told & draw
    first = told ^ second
    own = sum((first & one).bit_count() + (second & two).bit_count() for one, two in _LENGTHS)
    return 7 + own + sum(more for some, more in _SHARED if told & some)  # 7: those two, and "A photo of a man"


def _sentence(told: int, draw: int) -> str:
    """The caption that says these attributes."""
    word = {name: ways[1 if draw & bit else 0] for name, bit, ways in _WORDS if told & bit}
    who = word.get("Male") or WOMAN[1 if draw & _BIT["Male"] else 0]
    person = [word[name] for name in ("Attractive", "Young") if name in word]
    blurry = word["Blurry"] + " " if "Blurry" in word else ""
    text = f"A {blurry}photo of {_article([*person, who])}"
    hair = [word[name] for name in (*STYLES, *COLOURS) if name in word]
    looks = [" ".join((*hair, "hair"))] if hair else []
    for name in LOOKS:
        if isinstance(name, tuple):
            adjectives = [word[n] for n in name[:-1] if n in word]
            looks += [_article([*adjectives, name[-1]])] if adjectives else []
        elif name in word:
            looks.append(word[name])
    if looks:
        text += " with " + _listed(looks)
    if "No_Beard" in word:
        text += ", " + word["No_Beard"]
    if beard := [word[name] for name in BEARD if name in word]:
        text += ", sporting " + _listed(beard)
    for name in ("Smiling", "Mouth_Slightly_Open"):
        if name in word:
            text += ", " + word[name]
    if worn := [word[name] for name in WORN if name in word]:
        text += ", wearing " + _listed(worn)
    return text


def _article(words: list[str]) -> str:
    return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


def _listed(things: list[str]) -> str:
    return f"{', '.join(things[:-1])} and {things[-1]}" if len(things) > 1 else things[0]


_BIT = {name: 1 << i for i, name in enumerate(ATTRIBUTES)}
_WORDS = [(name, bit, PHRASES[name]) for name, bit in _BIT.items()]
_OF_MEN, _MINOR = bits((*BEARD, "No_Beard")), bits(MINOR)
_MINOR_BITS = [(len(ATTRIBUTES) + 16 * i, _BIT[name]) for i, name in enumerate(MINOR)]
_SILENCED = [(_BIT[one], bits(others)) for one, others in SILENCES.items()]
_BYTES = (len(ATTRIBUTES) + 16 * len(MINOR) + 7) // 8
# Tokens: those that attributes share ("with … hair", "with a … nose", "with a … face", ", sporting", ", wearing"), then
# each one's own, of its phrase and of the separator before it: in the k-th pair, the attributes whose first (second)
# phrase has k or more.
_SHARED = [(bits((*COLOURS, *STYLES)), 2), *((bits(n[:-1]), 3) for n in LOOKS if isinstance(n, tuple))]
_SHARED += [(bits(BEARD), 1), (bits(WORN), 1)]
_UNPARTED = bits(("Blurry", "Attractive", "Young", *COLOURS, *STYLES, "Big_Nose", "Pointy_Nose", "Chubby", "Oval_Face"))


def _own(name: str, phrase: str) -> int:
    words = phrase.replace("-", " - ").split()
    return len(words) + sum(word in IN_TWO for word in words) + (not _UNPARTED & _BIT[name]) if name != "Male" else 0


_LENGTHS = [
    tuple(bits(name for name in ATTRIBUTES if _own(name, PHRASES[name][way]) >= k) for way in (0, 1))
    for k in range(1, 8)
]

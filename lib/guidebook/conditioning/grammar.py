"""The grammar of attribute captions: a sentence built by rule from the attributes of a face.

Attributes (`guidebook.config.datasets.ATTRIBUTES`) are the bits of an integer: bit i is the i-th attribute.
"""

import functools
import hashlib
import re
from collections.abc import Iterable

from guidebook.config.datasets import ATTRIBUTES, SILENCES

# Two phrases of each attribute.
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
WOMAN = ("woman", "lady")  # without the attribute Male: every caption names a person
# Mentioned in most captions of images that have them; every other attribute in all of them.
MINOR = (
    "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Big_Lips", "Big_Nose", "Blurry", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "High_Cheekbones", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Rosy_Cheeks",
)  # fmt: skip
CORE = tuple(name for name in ATTRIBUTES if name not in MINOR)
KEPT = round(0.8 * 2**16)  # of 2¹⁶: how often a minor attribute is mentioned
COLOURS, STYLES = ("Gray_Hair", "Blond_Hair", "Black_Hair", "Brown_Hair"), ("Straight_Hair", "Wavy_Hair")
BEARD = ("Goatee", "Mustache", "5_o_Clock_Shadow", "Sideburns")
# Attributes that contradict the first one and are left out beside it. From the top: one that is left out excludes nothing.
EXCLUDES = SILENCES | {
    "Goatee": ("5_o_Clock_Shadow", "No_Beard"),
    "Mustache": ("No_Beard",),
    "5_o_Clock_Shadow": ("No_Beard",),
}
# The order of the other looks in a caption; a noun stands after its adjectives.
LOOKS = (
    "Bald", "Bangs", "Receding_Hairline", "Arched_Eyebrows", "Bushy_Eyebrows", "Narrow_Eyes", "Bags_Under_Eyes",
    ("Big_Nose", "Pointy_Nose", "nose"), "Big_Lips", "High_Cheekbones", "Rosy_Cheeks", ("Chubby", "Oval_Face", "face"),
    "Double_Chin", "Pale_Skin",
)  # fmt: skip
WORN = (
    "Wearing_Hat", "Eyeglasses", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie", "Wearing_Lipstick",
    "Heavy_Makeup",
)  # fmt: skip
# What follows the person and the looks: the first words of each clause, and its attributes.
FACE = [("", [name]) for name in ("Smiling", "Mouth_Slightly_Open")]
CLAUSES = (("", ["No_Beard"]), ("sporting ", BEARD), *FACE, ("wearing ", WORN))
# CLIP reads 77 tokens: where a caption would have more, minor attributes are left out, the last of them first. Its merges make
# two tokens of each of these words, and one of every other word, comma and hyphen. FEW attributes never make more.
TOKENS, FEW = 77, 13
IN_TWO = frozenset((
    "arched", "bushy", "cheekbones", "eyeglasses", "flushed", "goatee", "hairless", "hairline", "headwear", "necktie",
    "parted", "plump", "pointy", "receding", "rippling", "shaven", "sideburns", "squinting", "stubble", "whiskers",
))  # fmt: skip


def bits(names: Iterable[str]) -> int:
    """Attributes as an integer."""
    return sum(_BIT[name] for name in set(names))


def active(attributes: int) -> list[str]:
    """The names of attributes, in CelebA's order."""
    return [name for name, bit in _BIT.items() if attributes & bit]


def attribute_caption(attributes: int, seed: int, sample: int, epoch: int) -> str:
    """A sentence like "A photo of a young woman with straight blond hair and bangs, smiling, wearing earrings".

    A function of (attributes, seed, sample, epoch) alone. Of inactive attributes only Male is mentioned.
    """
    draw = _draw(seed, sample, epoch)
    return _sentence(_kept(consistent(attributes), draw), draw)


def mentioned(attributes: int, seed: int, sample: int, epoch: int) -> int:
    """The attributes that `attribute_caption` mentions."""
    return _kept(consistent(attributes), _draw(seed, sample, epoch))


def gender(attributes: int) -> str:
    """`man` or `woman`."""
    return PHRASES["Male"][0] if attributes & _BIT["Male"] else WOMAN[0]


@functools.lru_cache(maxsize=2**16)
def consistent(attributes: int) -> int:
    """The attributes without contradictions: of two that contradict each other, the first of the two in `EXCLUDES`."""
    if not attributes & _BIT["Male"]:
        # Of women most likely a wrong label, and that a woman has no beard is not worth mentioning.
        attributes &= ~_OF_MEN
    for one, others in _EXCLUDED:
        if attributes & one:
            attributes &= ~others
    return attributes


def switched(attributes: int, name: str) -> int:
    """The attributes with one more, without those that exclude it; or without it, where it was among them."""
    if attributes & _BIT[name]:
        return attributes ^ _BIT[name]
    for one, others in _EXCLUDED:
        if others & _BIT[name]:
            attributes &= ~one
    return attributes | _BIT[name]


def _draw(seed: int, sample: int, epoch: int) -> int:
    """Random bits: bit i chooses the phrase of attribute i, 16 further ones whether a minor attribute is mentioned."""
    return int.from_bytes(hashlib.blake2b(b"%d/%d/%d" % (seed, sample, epoch), digest_size=_BYTES).digest())


def _kept(attributes: int, draw: int) -> int:
    for i, bit in _MINOR_BITS:
        if attributes & bit and draw >> i & 0xFFFF >= KEPT:
            attributes ^= bit
    if attributes.bit_count() > FEW:
        for _, bit in reversed(_MINOR_BITS):
            if _tokens(_sentence(attributes, draw)) <= TOKENS:
                break
            attributes &= ~bit
    return attributes


def _tokens(caption: str) -> int:
    """CLIP's tokens of a caption, its start and its end among them."""
    words = re.findall(r"\w+|[^\s\w]", caption)
    return 2 + len(words) + len([word for word in words if word in IN_TWO])


def _sentence(attributes: int, draw: int) -> str:
    """The caption that mentions these attributes, none left out."""
    word = {name: ways[1 if draw & bit else 0] for name, bit, ways in _WORDS if attributes & bit}

    def words(names: Iterable[str]) -> list[str]:
        return [word[name] for name in names if name in word]

    who = word.get("Male") or WOMAN[1 if draw & _BIT["Male"] else 0]
    text = " ".join(["A", *words(["Blurry"]), "photo of", _article([*words(["Attractive", "Young"]), who])])
    hair = words((*STYLES, *COLOURS))
    looks = [" ".join((*hair, "hair"))] if hair else []
    for name in LOOKS:
        if isinstance(name, str):
            looks += words([name])
        elif adjectives := words(name[:-1]):
            looks.append(_article([*adjectives, name[-1]]))
    if looks:
        text += " with " + _listed(looks)
    for begins, names in CLAUSES:
        if some := words(names):
            text += f", {begins}{_listed(some)}"
    return text


def _article(words: list[str]) -> str:
    return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


def _listed(things: list[str]) -> str:
    return f"{', '.join(things[:-1])} and {things[-1]}" if len(things) > 1 else things[0]


_BIT = {name: 1 << i for i, name in enumerate(ATTRIBUTES)}
_WORDS = [(name, bit, PHRASES[name]) for name, bit in _BIT.items()]
_OF_MEN = bits((*BEARD, "No_Beard"))
_MINOR_BITS = [(len(ATTRIBUTES) + 16 * i, _BIT[name]) for i, name in enumerate(MINOR)]
_EXCLUDED = [(_BIT[one], bits(others)) for one, others in EXCLUDES.items()]
_BYTES = (len(ATTRIBUTES) + 16 * len(MINOR) + 7) // 8

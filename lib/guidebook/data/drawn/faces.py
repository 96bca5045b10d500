"""Faces drawn from CelebA's 40 attributes: a small stand-in for CelebA. A face is a function of them and of its seed.

Attributes say what a caption can; the seed chooses the rest: tones, colours, place, size and tilt. As in `scenes`, the
pixels are the same everywhere. Lengths are halves of the picture's side, u right and v up from between the ears.
"""

from collections.abc import Sequence

import torch

from guidebook.config.datasets import ATTRIBUTES, SILENCES
from guidebook.data.drawn.shapes import Canvas, box, circle, ellipse, ink, mix, pixels, segment, soften, squircle, wave
from guidebook.runtime.seeds import generator, seed_of

RATES = {  # shares of women and of men who have it; what else depends on what is in `random_attributes`
    "Attractive": (0.58, 0.42), "Bags_Under_Eyes": (0.16, 0.3), "Big_Lips": (0.35, 0.15), "Blurry": (0.07, 0.07),
    "Eyeglasses": (0.22, 0.28), "Heavy_Makeup": (0.5, 0), "High_Cheekbones": (0.5, 0.3), "Narrow_Eyes": (0.15, 0.18),
    "Mouth_Slightly_Open": (0.5, 0.4), "Pale_Skin": (0.16, 0.1), "Rosy_Cheeks": (0.28, 0.05), "Smiling": (0.55, 0.43),
    "Wearing_Earrings": (0.45, 0.03), "Wearing_Hat": (0.14, 0.18), "Wearing_Lipstick": (0.6, 0),
    "Wearing_Necklace": (0.35, 0), "Wearing_Necktie": (0, 0.3), "Young": (0.68, 0.6),
}  # fmt: skip
REST = {  # what the seed chooses of; of the hair, where it has none of the four colours that have names
    "skin": "f7cfb0 edba94 d99e73 b87d54 956142 7c4f37",
    "background": "8cb2cc bdccad dbc49e b2a3c2 788f99 d6d9d6",
    "clothes": "334c8c 9e2933 2e6b5c 4c4757 db9933 7a4280",
    "hat": "385c9e b22e2e 297057 e0a33d 804785",
    "iris": "4c2e17 3d75b8 47804c 734f24", "lipstick": "cc0f24 c21a66 8f0a29",
    "eyelids": "7a3d9e 2961b2 1a7a75", "hair": "943314 c25c1f",
}  # fmt: skip
HAIR = {"Black_Hair": "17141a", "Blond_Hair": "edc76b", "Brown_Hair": "54311b", "Gray_Hair": "b2b2ba", "Bald": "422e21"}
BLACK, WHITE, GOLD, RED = ink("171214"), ink("faf7f5"), ink("fad447"), ink("cc2933")
PLACE, SIZE, TILT = 0.03, 0.03, 0.05  # how far a face may be off: in halves of the side, as a share, as a slope
CHUNK = 2**15  # pixels drawn at a time; no picture depends on it


def random_attributes(n: int, seed: int) -> torch.Tensor:
    """Plausible attributes (n, 40) bool, none of which silences another. Row `i` is a function of (seed, i) alone."""
    drawn = [torch.rand(41, generator=generator(seed, "attributes", i)) for i in range(n)]
    *u, kind = torch.stack([torch.empty(41), *drawn])[1:].unbind(1)
    u = dict(zip(ATTRIBUTES, u, strict=True))
    male = u["Male"] < 0.5
    has = {"Male": male} | {name: u[name] < torch.where(male, *rates[::-1]) for name, rates in RATES.items()}
    old = ~has["Young"]
    bald = has["Bald"] = male & (u["Bald"] < torch.where(old, 0.38, 0.2))
    # Several of which at most one holds share a number
    gray = has["Gray_Hair"] = ~bald & old & (u["Gray_Hair"] < 0.45)
    for name, low, high in (("Black_Hair", 0, 0.34), ("Brown_Hair", 0.34, 0.64), ("Blond_Hair", 0.64, 0.9)):
        has[name] = ~bald & ~gray & (low <= u["Black_Hair"]) & (u["Black_Hair"] < high)
    has["Straight_Hair"], has["Wavy_Hair"] = (~bald & at for at in (u["Wavy_Hair"] < 0.35, u["Wavy_Hair"] > 0.65))
    has["Bangs"] = ~bald & (u["Bangs"] < torch.where(male, 0.15, 0.33))
    has["Receding_Hairline"] = ~bald & ~has["Wearing_Hat"] & (u["Bangs"] > torch.where(old, 0.7, 0.92))
    has["Arched_Eyebrows"] = u["Arched_Eyebrows"] < torch.where(male, 0.1, 0.48)
    has["Bushy_Eyebrows"] = u["Arched_Eyebrows"] > torch.where(male, 0.6, 0.92)
    has["Big_Nose"], has["Pointy_Nose"] = u["Big_Nose"] < torch.where(male, 0.36, 0.2), u["Big_Nose"] > 0.7
    has["Oval_Face"], has["Chubby"] = u["Chubby"] > 0.68, u["Chubby"] < 0.14
    has["Double_Chin"] = u["Double_Chin"] < torch.where(has["Chubby"], 0.5, 0.05)
    # One man in four has a shadow of a beard, which is none; every second one a beard, of which the parts are drawn apart
    has["5_o_Clock_Shadow"], bearded = male & (kind < 0.25), male & (kind > 0.5)
    has["No_Beard"] = ~bearded
    has |= {name: bearded & (u[name] < 0.45) for name in ("Goatee", "Mustache", "Sideburns")}
    return torch.stack([has[name] for name in ATTRIBUTES], 1)


def drawn(n: int, seed: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, H, W) uint8 of the first `n` faces of a seed, and their attributes (N, 40) bool."""
    attributes = random_attributes(n, seed)
    return render(attributes, [seed_of("face", seed, i) for i in range(n)], resolution), attributes


def render(attributes: torch.Tensor, seeds: Sequence[int] | torch.Tensor, resolution: int) -> torch.Tensor:
    """Pictures (N, 3, H, W) uint8, H = W = `resolution`, of faces of `attributes` (N, 40) bool; `seeds` (N,) ints."""
    seeds = torch.as_tensor(seeds, dtype=torch.int64)
    if attributes.shape != (len(seeds), len(ATTRIBUTES)) or attributes.dtype != torch.bool:
        raise ValueError(f"{tuple(attributes.shape)}, {attributes.dtype}: give ({len(seeds)}, 40), torch.bool")
    step = max(1, CHUNK // resolution**2)
    parts = [_render(attributes[i : i + step], seeds[i : i + step], resolution) for i in range(0, len(seeds), step)]
    return torch.cat([torch.empty(0, 3, resolution, resolution, dtype=torch.uint8), *parts])


def _render(attributes: torch.Tensor, seeds: torch.Tensor, side: int) -> torch.Tensor:
    """`render` of a few faces: layer by layer, each for all faces at once."""
    drawn = torch.stack([torch.rand(len(REST) + 5, generator=generator(s, "face")) for s in seeds.tolist()]).double()
    f = Face(attributes, drawn)
    x, y, size, tilt = (2 * drawn[:, -4:, None, None] - 1).unbind(1)
    image = f.background * (0.95 + 0.1 * (pixels(side)[0] - 2 * pixels(side)[1] + 0.5))[:, None]
    c = Canvas.turned(image, PLACE * x, PLACE * y, 1.03 + SIZE * size, TILT * tilt, PLACE + SIZE + TILT + 0.03)
    for layer in (_body, _head, _middle, _mouth, _front, _eyes, _worn):
        layer(c, f)
    blurry = attributes[:, ATTRIBUTES.index("Blurry")]
    image[blurry] = soften(image[blurry])
    return (image * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)


class Face(dict):
    """N faces: by an attribute's name whether it is drawn (N, 1, 1), 0 or 1; the colours of `REST` (N, 3, 1, 1)."""

    def __init__(self, attributes: torch.Tensor, drawn: torch.Tensor):
        on = dict(zip(ATTRIBUTES, attributes.unbind(1), strict=True))
        for name, others in SILENCES.items():
            on |= {other: on[other] & ~on[name] for other in others}
        super().__init__({name: value.double()[:, None, None] for name, value in on.items()})
        for (name, codes), u in zip(REST.items(), drawn.T, strict=False):
            setattr(self, name, ink(*codes.split())[(u * len(codes.split())).long()])
        self.skin = mix(self.skin, ink("faebe6"), 0.7 * self["Pale_Skin"])
        self.skin = mix(self.skin, ink("9e9487"), 0.3 * (1 - self["Young"]))
        for name, code in HAIR.items():
            self.hair = mix(self.hair, ink(code), self[name])
        self.parting = 0.7 * drawn[:, len(REST), None, None] - 0.35  # slope of the hairline


# Layers, from back to front. In pairs of things u is the distance from the middle


def _mop(c: Canvas, f: Face) -> torch.Tensor:
    """The outline of all hair: to above the ears of men, over the shoulders of others."""
    u, v, male, straight = c.u.abs(), c.v, f["Male"], f["Straight_Hair"]
    wide = 0.62 - 0.04 * male - 0.03 * straight
    top = ellipse(u, v, 0, 0.14, wide, 0.68 - 0.03 * straight)
    sides = torch.maximum(u - wide - 0.1 * (0.14 - v) * (1 - straight), -0.78 + 0.88 * male - v)
    return torch.where(v > 0.14, top, sides) - 0.035 * f["Wavy_Hair"] * (1 + wave(2.2 * (v - u))) + 9 * f["Bald"]


def _body(c: Canvas, f: Face) -> None:
    """Hair behind the head, neck, clothes and what is worn on them."""
    c.paint(_mop(c, f), 0.72 * f.hair)
    c = c.part(-1.3, -1.3, 1.3, -0.2)
    u, v, male, tie, necklace = c.u.abs(), c.v, f["Male"], f["Wearing_Necktie"], f["Wearing_Necklace"]
    wide = 0.2 + 0.09 * male + 0.03 * f["Chubby"]
    c.paint(torch.maximum(u - wide, v + 0.2), 0.74 * f.skin)  # the neck, in the chin's shadow
    shoulders = ellipse(u, v, 0, -1.35, 0.88 + 0.22 * male, 0.62 + 0.03 * male)
    c.paint(shoulders, f.clothes)
    c.paint(ellipse(u, v, 0, -0.72, wide + 0.05, 0.22 - 0.08 * male), 0.85 * f.skin)
    c.paint(torch.maximum(shoulders, u - 0.34 - 0.5 * (v + 0.75)), WHITE, tie)
    c.paint(torch.maximum(u + 0.03 + 0.12 * v, v + 0.7), mix(f.hat, RED, 0.6), tie)
    c.paint(circle(u, v, 0, -0.74, 0.085), 0.8 * mix(f.hat, RED, 0.6), tie)
    c.paint(torch.maximum(ellipse(u, v, 0, -0.66, wide + 0.04, 0.2).abs() - 0.04, v + 0.64), GOLD, necklace)
    c.paint(circle(u, v, 0, -0.9, 0.08), ink("33bfcc"), necklace)


def _head(c: Canvas, f: Face) -> None:
    c = c.part(-0.72, -0.8, 0.72, 0.75)
    u, v, skin, male, chubby, oval = c.u.abs(), c.v, f.skin, f["Male"], f["Chubby"], f["Oval_Face"]
    low = (0.05 - v).clamp(min=0)
    wide = 0.5 + 0.06 * chubby - 0.03 * oval + 0.01 * male + (0.1 * chubby - 0.25 * oval) * low
    square = (0.15 + 0.4 * male + 0.2 * chubby * (1 - male)) * (1 - 0.6 * oval)
    face = squircle(u, v - 0.05, wide, 0.6 + 0.08 * oval * (low > 0), square * (low > 0))
    c.paint(ellipse(u, v, 0.52, 0.0, 0.09, 0.14), 0.86 * skin)  # an ear
    c.paint(ellipse(u, v, 0, -0.5, 0.4, 0.24), 0.9 * skin, f["Double_Chin"])
    c.paint(torch.maximum(face - 0.025, u - 0.35), 0.6 * skin, f["Double_Chin"] * (v < -0.3))
    c.paint(face, 0.8 * skin)
    c.paint(face + 0.08, skin, 1, 0.16)
    jaw = torch.maximum(face + 0.04, -ellipse(u, v, 0, -0.02, 0.36, 0.22))
    c.paint(jaw, ink("404754"), 0.5 * f["5_o_Clock_Shadow"] * (v < -0.02), 0.07)
    beard = torch.maximum(torch.maximum(face - 0.015, v + 0.02), -ellipse(u, v, 0, 0.02, 0.42, 0.46))
    c.paint(beard, 0.9 * f.hair, 0.9 * (1 - f["No_Beard"]))
    c.paint(ellipse(u, v, 0, -0.54, 0.17, 0.15), 0.75 * f.hair, f["Goatee"])


def _middle(c: Canvas, f: Face) -> None:
    """Cheeks, lines, freckles and the nose."""
    c, nose = c.part(-0.5, -0.5, 0.5, 0.55), c.part(-0.25, -0.3, 0.25, 0.2)
    u, v, skin, cheekbones, old = c.u.abs(), c.v, f.skin, f["High_Cheekbones"], 0.8 * (1 - f["Young"])
    c.paint(circle(u, v, 0.3, -0.16, 0.1), ink("ed4c57"), 0.75 * f["Rosy_Cheeks"], 0.1)
    c.paint(segment(u, v, (0.2, -0.3), (0.42, -0.1), 0.035), 0.72 * skin, 0.7 * cheekbones, 0.05)
    c.paint(ellipse(u, v, 0.32, -0.07, 0.1, 0.045), mix(skin, WHITE, 0.35), cheekbones, 0.05)
    freckles = 0.05 - 0.16 * wave(9 * c.u + 4 * v) * wave(9 * v - 4 * c.u)
    c.paint(torch.maximum(freckles, ellipse(u, v, 0.24, -0.12, 0.2, 0.12)), 0.68 * skin, 0.55 * (1 - f["Attractive"]))
    brow = torch.maximum(((v - 0.38 + 0.3 * u * u).abs() - 0.045).abs() - 0.012, u - 0.22)
    c.paint(torch.minimum(brow, segment(u, v, (0.13, -0.16), (0.23, -0.36), 0.012)), 0.65 * skin, old)
    u, v, wide, high = nose.u.abs(), nose.v, 0.075 + 0.055 * f["Big_Nose"], 0.06 + 0.03 * f["Big_Nose"]
    snub = torch.minimum(ellipse(u, v, 0, -0.13, wide, high), ellipse(u, v, wide, -0.145, 0.5 * wide, 0.6 * high))
    sharp = torch.maximum(-0.21 - v, u - (0.16 - v) * (0.24 + 0.14 * f["Big_Nose"]))
    nose.paint(torch.where(f["Pointy_Nose"] > 0, sharp, snub), (0.74 - 0.1 * f["Pointy_Nose"])[:, None] * skin)
    snub = ellipse(u, v, 0, -0.105, 0.8 * wide, 0.8 * high)
    nose.paint(torch.where(f["Pointy_Nose"] > 0, sharp + 0.035, snub), mix(skin, WHITE, 0.18), 1, 0.02)
    nose.paint(ellipse(u, v, 0.55 * wide, -0.175, 0.3 * wide, 0.018), 0.45 * skin, 1 - f["Pointy_Nose"])


def _mouth(c: Canvas, f: Face) -> None:
    """And the moustache above it."""
    c = c.part(-0.35, -0.5, 0.35, -0.1)
    u, v, smile, agape = c.u.abs(), c.v, f["Smiling"], f["Mouth_Slightly_Open"]
    wide = 0.19 + 0.07 * smile
    thin = 1 - u * u / (wide * wide)  # from 1 in the middle to 0 in the corners
    line = v + 0.36 + 0.2 * smile * (thin - 0.6) - 0.05 * (1 - smile) * (thin - 0.5)
    full, gap = (0.055 + 0.045 * f["Big_Lips"]) * thin, 0.075 * agape * thin
    lips = mix(mix(f.skin, RED, 0.2), f.lipstick, f["Wearing_Lipstick"])
    whole, between = line.abs() - full - gap, torch.maximum(line.abs() - gap - 0.01, u - wide)
    c.paint(whole, lips)
    c.paint(torch.maximum(whole, -line), 0.85 * lips)  # the upper lip
    c.paint(between, ink("400d12"))
    c.paint(torch.maximum(between + 0.015, 0.012 - line), WHITE, agape)  # teeth
    c.paint((v + 0.245 + 1.2 * u * u).abs() - 0.065 * (1 - u * u / 0.06), 0.8 * f.hair, f["Mustache"])


def _front(c: Canvas, f: Face) -> None:
    """Hair over the face, outside of an opening."""
    u, v, male, wavy = c.u.abs(), c.v, f["Male"], f["Wavy_Hair"]
    streaks = 0.16 * f["Straight_Hair"] * wave(5 * c.u) + 0.2 * wavy * wave(3.3 * c.u + 0.35 * wave(2.2 * v))
    hair = f.hair * (1 + streaks)[:, None] + 0.1 * streaks[:, None]
    up, wide = v + f.parting * c.u, 0.45 + 0.03 * male
    opening = ellipse(u, up, 0, -0.05, wide, 0.5 + 0.09 * f["Receding_Hairline"])
    temples = circle(u, v, 0.27, 0.36, 0.2) + 9 * (1 - f["Receding_Hairline"])
    opening = torch.where(v > -0.05, torch.minimum(opening, temples), u - wide)
    c.paint(torch.maximum(_mop(c, f), -opening), hair)
    fringe = torch.maximum(ellipse(u, v, 0, 0.14, 0.56, 0.6), 0.31 + 0.03 * wave(4 * c.u) - v)
    c.paint(fringe, 0.93 * hair, f["Bangs"])
    c.paint(torch.maximum((u - 0.43).abs() - 0.075, (v + 0.06).abs() - 0.22), 0.8 * f.hair, f["Sideburns"])


def _eyes(c: Canvas, f: Face) -> None:
    """And the brows above them."""
    c = c.part(-0.45, -0.12, 0.45, 0.4)
    fair, young, bags, makeup = f["Attractive"], f["Young"], f["Bags_Under_Eyes"], f["Heavy_Makeup"]
    askew = (1 - fair) * (c.u < 0)
    u, v = c.u.abs(), c.v + 0.03 * askew
    high = (0.055 + 0.025 * young) * (1 - 0.55 * f["Narrow_Eyes"]) * (1 - 0.2 * askew)
    c.paint(ellipse(u, v, 0.21, 0.13, 0.15, 0.085), f.eyelids, 0.85 * makeup, 0.03)
    c.paint(ellipse(u, v, 0.21, -0.02, 0.13, 0.085), mix(0.55 * f.skin, ink("593366"), 0.35), bags, 0.02)
    c.paint(ellipse(u, v, 0.21, 0.03, 0.13, 0.08), f.skin, bags, 0.02)
    eye = ellipse(u, v, 0.21, 0.06, 0.1 + 0.02 * young, high)
    c.paint(eye - 0.018 - 0.012 * fair, BLACK, (v > 0.06 - 0.3 * makeup).double())
    c.paint(segment(u, v, (0.28, 0.09), (0.37, 0.16), 0.018), BLACK, fair)  # lashes
    c.paint(eye, WHITE)
    c.paint(torch.maximum(eye, circle(u, v, 0.21, 0.06, 0.062)), f.iris)
    c.paint(torch.maximum(eye, circle(u, v, 0.21, 0.06, 0.034)), BLACK)
    c.paint(circle(c.u.abs() - 0.02 * (c.u > 0), v, 0.2, 0.085, 0.022), WHITE, 0.3 + 0.7 * fair)
    off, arched = u - 0.21, f["Arched_Eyebrows"]
    line = (v - 0.215 - 0.02 * young - 0.05 * arched + (1.2 + 4.5 * arched) * off * off).abs()
    c.paint(torch.maximum(line - 0.018 - 0.032 * f["Bushy_Eyebrows"], off.abs() - 0.13), mix(0.7 * f.hair, BLACK, 0.35))


def _worn(c: Canvas, f: Face) -> None:
    """Earrings, glasses and a hat."""
    head, top = c.part(-0.7, -0.4, 0.7, 0.3), c.part(-0.9, 0.3, 0.9, 1.3)
    u, v = head.u.abs(), head.v
    head.paint(circle(u, v, 0.55, -0.21, 0.09), GOLD, f["Wearing_Earrings"])
    lens = box(u - 0.22, v, 0.06, 0.1, 0.07) - 0.05
    frame = torch.minimum(lens.abs() - 0.022, torch.maximum((v - 0.09).abs() - 0.018, torch.maximum(u - 0.52, -lens)))
    head.paint(lens, ink("d9edff"), 0.25 * f["Eyeglasses"])
    head.paint(frame, BLACK, f["Eyeglasses"])
    u, v = top.u.abs(), top.v
    crown = torch.maximum(ellipse(u, v, 0, 0.42, 0.6, 0.56), 0.42 - v)
    top.paint(crown, f.hat, f["Wearing_Hat"])
    top.paint(torch.maximum(crown, v - 0.56), 0.55 * f.hat, f["Wearing_Hat"])
    top.paint(ellipse(u, v, 0, 0.44, 0.8, 0.085), 0.8 * f.hat, f["Wearing_Hat"])

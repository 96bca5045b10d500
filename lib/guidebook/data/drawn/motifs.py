"""Motifs, of which each paints over what is on the canvas: strokes, dots, facets, hills, a portrait; and styles made of them."""

import functools
import math

import numpy as np
from PIL import Image

from guidebook.data.drawn.canvas import Canvas

ALL = (0, 0, 1, 1)


def wash(c: Canvas, *inks: int) -> None:
    """From one ink at the top to the last at the bottom."""
    stops = np.linspace(0, 1, len(inks)) + c.rng.uniform(-0.06, 0.06, len(inks))
    rows = np.stack([np.interp(c.y[:, 0], stops, c.inks[list(inks), k]) for k in range(3)], 1).astype(np.uint8)
    c.image.paste(Image.fromarray(np.repeat(rows[:, None], c.size[0], 1)))


def glow(c: Canvas, ink: int, x: float, y: float, reach: float) -> None:
    x, y, reach = x + c.rng.uniform(-0.1, 0.1), y + c.rng.uniform(-0.05, 0.05), reach * c.rng.uniform(0.85, 1.15)
    c.blend(ink, 0.9 * np.exp(-(((c.x - x) / reach) ** 2)) * np.exp(-(((c.y - y) / reach) ** 2)))


def hills(c: Canvas, horizon: float, rough: float, *inks: int, foam: int = 0) -> None:
    """Ranges one before the other; waves, the first ones great, where there is an ink for their foam."""
    x, horizon = np.linspace(0, 1, 80), horizon + c.rng.uniform(-0.03, 0.03)
    for k, ink in enumerate(inks):
        a, b, phase = c.rng.uniform(3, 8), c.rng.uniform(8, 20), c.rng.uniform(0, 7, 2)
        y = np.sin(a * x + phase[0]) + 0.5 * np.sin(b * x + phase[1])
        y = -4 * np.abs(np.sin(8 * x + phase[0])) - 20 * (k < 2) * np.exp(-(((x - 0.2) / 0.15) ** 2)) if foam else y
        y = horizon + (1 - horizon) * k / len(inks) + rough * y
        c.shape([(0, 1), *zip(x, y, strict=True), (1, 1)], c.ink(ink))
        if foam:
            c.draw.line((np.stack([x, y], 1) * c.size).ravel().tolist(), c.ink(foam), c.side // 50)


waves = functools.partial(hills, foam=3)


def strokes(c: Canvas, n: int, length: float, width: float, turn: float, spread: float, flow: float, *inks: int):
    """Of the brush, at `turn` ± `spread` radians, bent by `flow`; in inks, or in the colours below them."""
    at, colours = c.touches(n, ALL, inks)
    x, y = at.astype(int).T
    angle = turn + spread * c.rng.standard_normal(n) + flow * c.clouds()[y, x]
    step = length * c.side / 2 * c.rng.uniform(0.6, 1.3, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    widths = np.maximum(1, width * c.side * c.rng.uniform(0.6, 1.4, n)).round().astype(int).tolist()
    for path, ink, wide in zip(np.concatenate([at - step, at + step], 1).tolist(), colours, widths, strict=True):
        c.draw.line(path, ink, wide)


def dots(c: Canvas, n: int, size: float, box: tuple, *inks: int) -> None:
    """Touches with the brush's tip; large ones are round things, with a light side."""
    at, colours = c.touches(n, box, inks)
    for (x, y), r, ink in zip(at.tolist(), c.side * size * c.rng.uniform(0.6, 1.2, n), colours, strict=True):
        c.draw.ellipse((x - r, y - r, x + r, y + r), ink)
        if r > 8:
            c.draw.ellipse((x - 0.7 * r, y - 0.7 * r, x + 0.3 * r, y + 0.3 * r), tuple(int(1.15 * v) for v in ink))


def threads(c: Canvas, n: int, length: float, curl: float, *inks: int) -> None:
    """Poured lines of paint; the more they curl (radians a step), the more they are spirals."""
    for ink in c.rng.choice(inks, n):
        angle = c.rng.uniform(0, 7) + np.cumsum(c.rng.normal(0, 0.45 if curl == 0 else 0.03, 40) + curl)
        step = c.rng.uniform(0.5, 1) * length * np.stack([np.cos(angle), np.sin(angle)], 1)
        step *= np.linspace(1, 0.1, 40)[:, None] if curl else 1
        path = c.rng.random(2) * c.size + c.side * np.cumsum(step, 0)
        c.draw.line(path.ravel().tolist(), c.ink(ink), int(c.rng.integers(2, 6)), joint="curve")


def facets(c: Canvas, n: int, shift: float, shade: float) -> None:
    """Breaks the picture along straight lines: each side is moved and shaded."""
    dx, dy, light = 0.0, 0.0, 1.0
    for angle in c.rng.uniform(0, np.pi, n).tolist():
        sin, cos = math.sin(angle), math.cos(angle)
        away = (c.x - c.rng.uniform(0.1, 0.9)) * cos + (c.y - c.rng.uniform(0.1, 0.9)) * sin
        side = np.sign(away)
        light = light + shade * np.clip(side - 4 * away, -1, 1) * (np.abs(away) < 0.25)
        dx, dy = dx - shift * sin * side, dy + shift * cos * side
    c.warp(dx, dy, light)


def fields(c: Canvas, *inks: int) -> None:
    """Soft-edged areas one above the other."""
    edges, fray = np.linspace(0.05, 0.95, len(inks) + 1) + c.rng.uniform(-0.05, 0.05, len(inks) + 1), 0.01 * c.clouds()
    for ink, top, bottom in zip(inks, edges.tolist(), edges[1:].tolist(), strict=False):
        inner = np.minimum(np.minimum(c.x - 0.08, 0.92 - c.x), np.minimum(c.y - top - 0.02, bottom - 0.02 - c.y))
        c.blend(ink, 0.95 * np.clip((inner + fray) / 0.03 + 0.5, 0, 1))


def sheets(c: Canvas, n: int, size: float, slim: float, tilt: float, *inks: int) -> None:
    """Of paper, `slim` times as wide as high, tilted by about `tilt` radians."""
    for k in range(n):
        angle, (w, h) = tilt * c.rng.standard_normal(), size / 2 * c.rng.uniform(0.6, 1.2, 2) / (1, slim)
        (x, y), cos, sin = c.rng.uniform(0.28, 0.72, 2), math.cos(angle), math.sin(angle)
        corners = ((-w, -h), (w, -h), (w, h), (-w, h))
        c.shape([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners], c.ink(inks[k % len(inks)]))


def portrait(c: Canvas, robe: int, skin: int, hair: int, size: float, slim: float, halo: int = 0) -> None:
    """Head and shoulders, lit from the left; ink 0 is no halo."""
    x, y, r = c.rng.uniform(0.45, 0.55), c.rng.uniform(0.33, 0.39), size * c.rng.uniform(0.9, 1.1)
    w, h = r * c.side / c.size[0], r * slim * c.side / c.size[1]
    for rim in (2.1, 2.0) if halo else ():
        c.oval(x, y, rim * r, rim * r, c.ink(halo, 0.75 if rim > 2 else 1.2))
    c.oval(x, y - 0.1 * h, 1.22 * r, 1.3 * r * slim, c.ink(hair))
    neck = [(x - 0.4 * w, y), (x + 0.4 * w, y), (x + 0.6 * w, y + 1.5 * h), (x - 0.6 * w, y + 1.5 * h)]
    c.shape(neck, c.ink(skin, 0.8))
    for light, side in ((1.0, np.linspace(-1, 1, 30)), (0.75, np.linspace(0.3, 1, 15))):  # then the side in shadow
        c.shape([*zip(x + 3 * w * side, y + h * (1.2 + 1.5 * np.abs(side) ** 2.6), strict=True), (x + 3.2 * w, 1.2),
                 (x + 3.4 * w * side[0], 1.2)], c.ink(robe, light))  # fmt: skip
    c.oval(x, y, 0.85 * r, 1.1 * r * slim, c.ink(skin, 0.8))
    c.oval(x - 0.1 * w, y, 0.74 * r, 1.05 * r * slim, c.ink(skin))
    for across, down, wide, high in ((-0.42, -0.12, 0.13, 0.06), (0.22, -0.12, 0.13, 0.06), (-0.1, 0.55, 0.22, 0.06)):
        c.oval(x + across * w, y + down * h, wide * r, high * r, c.ink(skin, 0.45))  # eyes and mouth


def houses(c: Canvas, *inks: int) -> None:
    edges = np.linspace(-0.1, 1.1, 8) + c.rng.uniform(-0.05, 0.05, 8)
    for k, (left, right, roof) in enumerate(zip(edges, edges[1:], c.rng.uniform(0.12, 0.42, 7), strict=False)):
        c.shape([(left, 0.8), (left, roof), (right, roof), (right, 0.8)], c.ink(inks[k % len(inks)]))


def still_life(c: Canvas, cloth: int, vase: int) -> None:
    c.shape([(0, 0.62), (1, c.rng.uniform(0.58, 0.66)), (1, 1), (0, 1)], c.ink(cloth))
    c.shape([(0.5, 0.7), (0.35, 0.3), (0.42, 0.22), (0.5, 0.6), (0.55, 0.2), (0.64, 0.3)], c.ink(vase, 0.5))  # stems
    c.oval(0.5, 0.62, 0.1, 0.14, c.ink(vase))


def panels(c: Canvas) -> None:
    """The picture four times, in exchanged colours."""
    (width, height), small = c.size, np.asarray(c.image.reduce(2))
    for k, swap in enumerate(((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1))):
        c.image.paste(Image.fromarray(small[..., swap]), (k % 2 * width // 2, k // 2 * height // 2))


LOOKS = {  # the styles in the order of their labels: a palette, then the motifs with their numbers
    "Abstract_Expressionism": ("e9dcc3 1c1a1d a83a26 d79a2b 52708c",
        (sheets, 3, 1, 1, .5, 3), (strokes, 26, .3, .06, .6, 1.2, 0, 0, 2, 4), (strokes, 8, .6, .08, .8, .5, 0, 1)),
    "Action_painting": ("a9a296 17171a efe9dc 7c8a96 c8a038", (threads, 90, .03, 0, 1, 1, 2, 3, 4), (dots, 900, .006, ALL, 1, 2)),
    "Analytical_Cubism": ("7d6a4c 3b3225 a8977a c9bd9d 5a5647",
        (glow, 3, .5, .45, .35), (sheets, 26, .3, 1.6, .8, 1, 2, 3, 4), (facets, 8, .03, .3)),
    "Art_Nouveau_Modern": ("e3cf9a 2f6b62 b9822e 7c2f2a f1e6c8",
        (threads, 30, .04, .2, 1, 2), (portrait, 1, 4, 2, .15, 1.1, 2), (dots, 60, .03, (0, .85, 1, 1), 2, 3)),
    "Baroque": ("17100c 5a3c22 8c1f1a e0b183 3a2416", (glow, 1, .25, .25, .3), (portrait, 2, 3, 4, .17, 1.15)),
    "Color_Field_Painting": ("7a1f1c c8401f 3b1020 e27a26", (fields, 3, 1, 2)),
    "Contemporary_Realism": ("c9d2d8 eef0ee 7f93a3 d0473a e8b04a 49708f", (wash, 0, 1), (still_life, 2, 5),
        (dots, 16, .07, (.33, .16, .67, .42), 3, 4, 1), (dots, 7, .06, (.1, .72, .9, .86), 3, 4)),
    "Cubism": ("6f8a6c c98a4b 2f4a5e d9cfb0 8a3f2c 1f2420",
        (portrait, 2, 1, 5, .2, 1.2), (sheets, 10, .24, 1.5, .7, 0, 1, 3, 4), (facets, 7, .04, .28)),
    "Early_Renaissance": ("c9962f 24408f e6bd93 6b3b1e f0cf6a", (wash, 4, 0, 0), (portrait, 1, 2, 3, .15, 1.15, 4)),
    "Expressionism": ("e2641f f2b23a 1d3350 0f1a2b 6b2a3a",
        (wash, 0, 1, 0), (hills, .55, .05, 4, 2, 3), (strokes, 1100, .16, .02, 0, .1, .8)),
    "Fauvism": ("3fa37c f2c22e e0345c 2a5fc4 f0832c 7a2f92", (wash, 0, 1), (hills, .4, .04, 3, 2, 4),
        (dots, 7, .1, (0, .4, 1, .65), 5, 2, 0), (strokes, 700, .07, .03, .3, .8, 0)),
    "High_Renaissance": ("b5b487 6f7f6a 4d4a2c d8b07e 2c2416 5c4425",
        (wash, 0, 0, 1), (hills, .45, .04, 1, 2, 5), (portrait, 4, 3, 4, .165, 1.15)),
    "Impressionism": ("bcd3e6 e9d6dc 8fae9c 6f93b8 f4efe2 d69fb0", (wash, 0, 1, 3), (hills, .42, .03, 2, 3),
        (dots, 60, .03, (0, .6, 1, 1), 4, 5, 2), (strokes, 1500, .05, .016, 0, .35, 0)),
    "Mannerism_Late_Renaissance": ("3d5a62 24383e d98aa0 e8d3b8 7d8f4e 5a3c48",
        (sheets, 4, .7, .5, .3, 1, 4), (portrait, 2, 3, 5, .12, 1.6)),
    "Minimalism": ("f1efe8 1a1a1a d8d4c8", (sheets, 1, .6, 1, 0, 2), (sheets, 2, .4, 6, 0, 1)),
    "Naive_Art_Primitivism": ("5fb4e8 3f9b3a 7cc44a f7d93d d9382e 2b6a2c", (dots, 1, .1, (.2, .1, .8, .2), 3),
        (hills, .45, .05, 1, 2), (dots, 8, .09, (0, .45, 1, .7), 5, 4), (dots, 90, .014, (0, .75, 1, 1), 4, 3)),
    "New_Realism": ("8f969a 5a5450 7a4a3c e8cf7a 3f4448 a89a8a",
        (wash, 0, 0, 4, 4), (houses, 1, 2, 5), (dots, 130, .012, (0, .42, 1, .72), 3, 4)),
    "Northern_Renaissance": ("2f5238 1a1512 e9c6a4 f2ede2", (portrait, 1, 2, 3, .19, 1.05)),
    "Pointillism": ("a9cfe4 f4e7a8 8cb84e e89a5c 4f6fae 4f7d3c", (wash, 0, 1), (hills, .5, .03, 4, 2, 1),
        (dots, 6, .11, (0, .4, 1, .6), 5, 3), (dots, 3500, .01, ALL)),
    "Pop_Art": ("f5e02a e8208a 20b8e0 f7f3ea 151515", (dots, 60, .04, ALL, 2), (portrait, 1, 3, 4, .19, 1.1), (panels,)),
    "Post_Impressionism": ("1d3c8a 4b86c8 e6b422 c98a1c 2d4a2a f6e58a", (wash, 0, 1), (dots, 9, .05, (0, 0, 1, .4), 5),
        (hills, .58, .03, 4, 2, 3), (strokes, 1300, .08, .014, .1, .15, .7)),
    "Realism": ("b4b3a6 9a9580 6b6238 4e4527 857a4a 332c1a",
        (wash, 0, 0, 1), (hills, .6, .015, 4, 2, 3), (dots, 9, .05, (0, .56, 1, .66), 5, 3)),
    "Rococo": ("b7d0dc f3d9d3 e7a9b0 f7efe0 9db58a", (wash, 0, 1, 4), (glow, 3, .5, .4, .35),
        (portrait, 2, 1, 3, .12, 1.1), (dots, 140, .035, (0, .8, 1, 1), 2, 3, 4)),
    "Romanticism": ("4a2f22 e8a24a 2a2a34 7d4a2a f6dca0 15161d",
        (wash, 2, 3, 2), (glow, 1, .5, .45, .4), (glow, 4, .5, .45, .15), (hills, .68, .04, 0, 5)),
    "Symbolism": ("3a2a5c 6c4f8c 1c1836 d9c7e0 8a5f7a 0f0e20", (wash, 2, 0, 1, 4), (dots, 1, .14, (.25, .2, .75, .3), 3),
        (hills, .68, .03, 0, 5), (strokes, 60, .2, .006, 0, .02, 0, 3, 1)),
    "Synthetic_Cubism": ("c9b38a efe6d0 1d1d1f 3f6fa0 8a4a2a a8b8b0",
        (sheets, 9, .5, 1.4, .35, 1, 2, 3, 4, 5), (threads, 4, .04, .2, 2, 1), (dots, 50, .012, (.2, .2, .8, .8), 2, 4)),
    "Ukiyo_e": ("ecdfc0 1f3f6f 4f7fa8 f6f1e2 cf4a35 c9c7b0", (wash, 5, 0, 0), (dots, 1, .1, (.4, .15, .85, .25), 4),
        (waves, .55, .015, 2, 1, 2, 1, 2, 1)),
}  # fmt: skip
GENRE = {portrait: "portrait", hills: "landscape", waves: "landscape", houses: "cityscape", still_life: "still_life"}

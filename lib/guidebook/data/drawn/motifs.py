"""A canvas and what can be painted on it: strokes, dots, facets, hills, a portrait. Inks are numbers of a palette's colours."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

ALL = (0, 0, 1, 1)


class Canvas:
    """A painting at a quarter of its size. Places are shares of its width and height, lengths of its shorter side."""

    def __init__(self, palette: str, width: int, height: int, rng: np.random.Generator):
        self.rng, self.size, self.side = rng, (width, height), min(width, height)
        inks = np.array([list(bytes.fromhex(ink)) for ink in palette.split()])
        self.inks = np.clip(inks * rng.uniform(0.94, 1.06) + rng.normal(0, 5, inks.shape), 0, 255)
        self.image = Image.new("RGB", self.size, self.ink(0))
        self.draw = ImageDraw.Draw(self.image)
        self.x = np.arange(width, dtype=np.float32)[None] / width
        self.y = np.arange(height, dtype=np.float32)[:, None] / height

    def ink(self, i: int, light: float = 1.0) -> tuple[int, ...]:
        return tuple(np.clip(self.inks[i] * light, 0, 255).astype(int).tolist())

    def oval(self, x: float, y: float, across: float, up: float, ink: tuple) -> None:
        x, y, across, up = x * self.size[0], y * self.size[1], across * self.side, up * self.side
        self.draw.ellipse((x - across, y - up, x + across, y + up), fill=ink)

    def shape(self, corners, ink: tuple) -> None:
        self.draw.polygon((np.asarray(corners) * self.size).ravel().tolist(), fill=ink)

    def blend(self, ink: int, cover: np.ndarray) -> None:
        """`cover` (H, W): from 0 to 1."""
        self.image.paste(self.ink(ink), mask=Image.fromarray((cover * 255).astype(np.uint8)))

    def warp(self, dx, dy, light) -> None:
        """Fetches each pixel from (dx, dy) away, and multiplies it by `light`, all (H, W)."""
        width, height = self.size
        column = np.clip(self.x * width + dx * self.side, 0, width - 1).astype(np.int32)
        row = np.clip(self.y * height + dy * self.side, 0, height - 1).astype(np.int32)
        pixels = np.asarray(self.image).reshape(-1, 3).take(row * width + column, axis=0) * light[..., None]
        self.image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))

    def clouds(self) -> np.ndarray:
        """A smooth field (H, W) of mean 0 and deviation 1."""
        (width, height), field = self.size, _clouds()
        x, y = self.rng.integers(0, (len(field) - width, len(field) - height))
        return field[y : y + height, x : x + width]

    def touches(self, n: int, box: tuple, inks: tuple) -> tuple[np.ndarray, list]:
        """Places (n, 2) in pixels within a box (left, top, right, bottom), and their inks or what is there, varied."""
        at = self.rng.uniform(box[:2], box[2:], (n, 2)) * self.size
        x, y = at.astype(int).T
        colours = self.inks[self.rng.choice(inks, n)] if inks else np.asarray(self.image)[y, x]
        colours = colours + self.rng.normal(0, 13, (n, 1)) + self.rng.normal(0, 10, (n, 3))
        return at, [tuple(c) for c in np.clip(colours, 0, 255).astype(int).tolist()]


# Motifs: each paints over what is there. An ink is a number in the palette


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


def strokes(
    c: Canvas, n: int, length: float, width: float, turn: float, spread: float, flow: float, *inks: int
) -> None:
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
    c.shape(
        [(x - 0.4 * w, y), (x + 0.4 * w, y), (x + 0.6 * w, y + 1.5 * h), (x - 0.6 * w, y + 1.5 * h)], c.ink(skin, 0.8)
    )
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


@functools.cache
def _clouds() -> np.ndarray:
    """A smooth field (800, 800) from which each painting takes a part."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    field = np.asarray(Image.fromarray(noise).resize((800, 800), Image.Resampling.BICUBIC), np.float32)
    return (field - field.mean()) / field.std()

"""Drawn pictures of coloured objects: a scene is data, and drawing it a function of that data alone.

Arithmetic is in float64, and on tensors only + − × ÷ and the square root, which every machine rounds alike: the
pixels are the same everywhere, whatever the batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from guidebook.config.datasets import CATALOG
from guidebook.data.drawn.shapes import box, circle, direction, pixels, polygon, table
from guidebook.runtime.seeds import generator

KINDS = CATALOG["scenes"].classes
COLOURS = {
    "red": (0.86, 0.12, 0.14), "orange": (1.00, 0.52, 0.06), "yellow": (0.99, 0.88, 0.20), "green": (0.13, 0.62, 0.24),
    "blue": (0.13, 0.33, 0.87), "purple": (0.49, 0.14, 0.62), "pink": (1.00, 0.63, 0.78), "white": (0.97, 0.97, 0.95),
    "black": (0.10, 0.10, 0.12),
}  # fmt: skip
APART = 0.65  # distance in RGB from which two colours may meet as object and background
SIZES, TURN = (0.7, 0.86), 14  # of random scenes: shares of the picture's side, and degrees to either side
REACH = 1.15  # halves of its size that a shape reaches across or up, turned by up to 20°
CHUNK = 2**17  # pixels drawn at a time; no picture depends on it


@dataclass(frozen=True)
class Scene:
    """One object on a background. Lengths are shares of the picture's side, x from its left and y from its top."""

    kind: str
    colour: str
    x: float
    y: float
    size: float  # the side of the square that its shape fits
    angle: float  # degrees, counterclockwise
    background: str
    light: float  # where it comes from: degrees, counterclockwise from the right

    def __post_init__(self):
        if self.kind not in KINDS or self.colour not in COLOURS:
            raise ValueError(f"a {self.colour} {self.kind}: kinds are {', '.join(KINDS)}; colours {', '.join(COLOURS)}")


def random_scenes(n: int, seed: int) -> list[Scene]:
    """`n` scenes, the kinds in turn. Scene `i` is a function of (seed, i): it does not depend on `n`."""
    return [_random_scene(KINDS[i % len(KINDS)], generator(seed, "scene", i)) for i in range(n)]


def _random_scene(kind: str, rng: torch.Generator) -> Scene:
    """A scene whose object lies wholly in the picture."""
    x, y, size, angle, colour, background, light = torch.rand(7, generator=rng).tolist()
    size, angle = SIZES[0] + (SIZES[1] - SIZES[0]) * size, TURN * (2 * angle - 1)
    x, y = (0.5 + (1 - REACH * size) * (at - 0.5) for at in (x, y))
    colour = list(COLOURS)[int(colour * len(COLOURS))]
    others = [c for c in COLOURS if math.dist(COLOURS[c], COLOURS[colour]) >= APART]
    background = others[int(background * len(others))]
    return Scene(kind, colour, x, y, size, angle, background, 45 + 90 * light)


def drawn(n: int, seed: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, H, W) uint8 of the first `n` scenes of a seed, and their kinds (N,) int64."""
    scenes = random_scenes(n, seed)
    return render(scenes, resolution), torch.tensor([KINDS.index(scene.kind) for scene in scenes])


def render(scenes: Sequence[Scene], resolution: int) -> torch.Tensor:
    """Pictures (N, 3, H, W) uint8 of scenes, H = W = `resolution`."""
    step = max(1, CHUNK // resolution**2)
    parts = [_render(scenes[i : i + step], resolution) for i in range(0, len(scenes), step)]
    return torch.cat([torch.empty(0, 3, resolution, resolution, dtype=torch.uint8), *parts])


def _render(scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """`render` of a few scenes, all objects of a kind at once."""
    image = torch.empty(len(scenes), 3, side, side, dtype=torch.float64)
    for kind in {s.kind for s in scenes}:
        at = [i for i, s in enumerate(scenes) if s.kind == kind]
        image[at] = _drawn(SHAPES[kind], [scenes[i] for i in at], side)
    return (image * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)


def _drawn(shape: Callable, scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """Pictures (N, 3, H, W) from 0 to 1 of objects of one shape with their shadows."""
    light, (column, row) = table(direction(s.light) for s in scenes), pixels(side)  # `light` (N, 2, 1, 1) points to it
    background = table(COLOURS[s.background] for s in scenes)
    image = background * (0.86 + 0.2 * _along(light, column - 0.5, 0.5 - row))[:, None]
    x, y, half, cos, sin = table((s.x, s.y, s.size / 2, *direction(s.angle)) for s in scenes).unbind(1)
    right, up = (column - x) / half, (y - row) / half  # from the object's middle, in halves of it
    u, v = right * cos + up * sin, up * cos - right * sin
    inside = shape(u, v)  # (N, H, W)
    lx, ly = light.unbind(1)
    shadow = shape(u + 0.2 * (lx * cos + ly * sin), v + 0.2 * (ly * cos - lx * sin))
    image = image * (1 - 0.3 * (0.5 - shadow * half * 10).clamp(0, 1))[:, None]  # soft over a tenth of the picture
    shade = 0.8 + 0.1 * _along(light, right, up) + 0.12 * (-2.5 * inside).clamp(0, 1)  # the rim is darker
    cover = (0.5 - inside * half * side).clamp(0, 1)[:, None]  # the outline is soft over one pixel
    return image * (1 - cover) + table(COLOURS[s.colour] for s in scenes) * shade[:, None] * cover


def _along(light: torch.Tensor, right: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """How far each pixel lies towards the light (N, H, W)."""
    return right * light[:, 0] + up * light[:, 1]


# Each shape: a signed distance of (u right, v up) to an outline within about −1 … 1
STAR = [(r * x, r * y) for i in range(10) for r, (x, y) in [((1.08, 0.46)[i % 2], direction(90 + 36 * i))]]
SHAPES = {
    "ball": lambda u, v: circle(u, v, 0, 0, 0.92),
    "box": lambda u, v: box(u, v, 0, 0.78, 0.78),
    "triangle": lambda u, v: polygon(u, v, [(-0.92, -0.8), (0.92, -0.8), (0, 0.8)]),
    "star": lambda u, v: polygon(u, v, STAR),
    "heart": lambda u, v: torch.minimum(
        torch.minimum(circle(u, v, -0.46, 0.34, 0.5), circle(u, v, 0.46, 0.34, 0.5)),
        polygon(u, v, [(0, 0.55), (-0.46, 0.34), (-0.84, 0.0), (0, -0.92), (0.84, 0.0), (0.46, 0.34)]),
    ),
    "ring": lambda u, v: circle(u, v, 0, 0, 0.70).abs() - 0.25,
    "cross": lambda u, v: torch.minimum(box(u, v, 0, 0.34, 0.95), box(u, v, 0, 0.95, 0.34)),
    "moon": lambda u, v: torch.maximum(circle(u, v, 0, 0, 0.96), -circle(u, v, 0.45, 0, 0.76)),
    "fish": lambda u, v: torch.minimum(
        torch.maximum(circle(u, v, -0.23, -0.28, 0.82), circle(u, v, -0.23, 0.28, 0.82)),
        polygon(u, v, [(0.2, 0), (1.0, 0.66), (0.82, 0), (1.0, -0.66)]),
    ),
    "mushroom": lambda u, v: torch.minimum(torch.maximum(circle(u, v, 0, 0, 0.95), -v), box(u, v, -0.4, 0.3, 0.54)),
}  # fmt: skip

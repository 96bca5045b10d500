"""Shapes of drawn pictures as signed distances, and what they are painted on.

A distance is that of a point (u right, v up) to an outline, negative inside; u and v are tensors that broadcast against
each other and against the shape's numbers. Only + − × ÷ and the square root are used, which every machine rounds alike.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

Number = torch.Tensor | float  # of all pixels, or of each


def pixels(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x (1, 1, W) and y (1, H, 1) of the pixels' middles, as shares of the picture's side."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    return at[None, None, :], at[None, :, None]


def table(rows: Iterable[Sequence[float]]) -> torch.Tensor:
    """K numbers of each of N things (N, K, 1, 1)."""
    return torch.tensor(list(rows), dtype=torch.float64)[:, :, None, None]


def direction(degrees: float) -> tuple[float, float]:
    """The point at this angle, counterclockwise from the right, on a circle of radius 1."""
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def ink(*codes: str) -> torch.Tensor:
    """Colours (N, 3, 1, 1) from 0 to 1, given as six hexadecimal digits each."""
    return table(bytes.fromhex(code) for code in codes) / 255


def mix(colour: torch.Tensor, other: torch.Tensor, share: Number) -> torch.Tensor:
    """Colours (N, 3, H, W) with this share (N, H, W) of another."""
    return colour + (other - colour) * (share[:, None] if isinstance(share, torch.Tensor) else share)


@dataclass(frozen=True)
class Canvas:
    """Pictures in the making, and where each pixel lies in what is painted: in halves of the side, moved and turned."""

    image: torch.Tensor  # (N, 3, H, W)
    u: torch.Tensor  # (N, H, W)
    v: torch.Tensor  # (N, H, W)
    pixel: torch.Tensor  # (N, 1, 1) its size
    reach: float  # how far at most anything within the picture is moved

    @classmethod
    def turned(cls, image, x, y, size, slope, reach: float) -> "Canvas":
        """u = v = 0 lies `x` and `y` (N, 1, 1) halves off the middle; u rises by `slope`; both grow by `size`."""
        side, cos = image.shape[-1], 1 / (1 + slope * slope).sqrt()
        right, up = (2 * pixels(side)[0] - 1 - x) / size, (1 - 2 * pixels(side)[1] - y) / size
        return cls(image, (right + up * slope) * cos, (up - right * slope) * cos, 2 / (side * size), reach)

    def part(self, left: float, bottom: float, right: float, top: float) -> "Canvas":
        """The part of a whole canvas that may lie between these u and v, to paint on: other pixels are not looked at."""
        side = self.image.shape[-1]
        out = self.reach + 2 / side  # rims are soft over a pixel
        edges = (left - out, right + out + 2 / side, -top - out, -bottom + out + 2 / side)
        cuts = [min(max(int((edge + 1) / 2 * side), 0), side) for edge in edges]
        columns, rows = slice(*cuts[:2]), slice(*cuts[2:])
        u, v = (at[:, rows, columns] for at in (self.u, self.v))
        return Canvas(self.image[..., rows, columns], u, v, self.pixel, self.reach)

    def paint(self, shape: torch.Tensor, colour: torch.Tensor, amount: Number = 1, soft: float = 0) -> None:
        """Covers a shape (N, H, W) with a colour (N, 3, …) to this amount; its rim is soft over a pixel and `soft`."""
        cover = (0.5 - shape / (self.pixel + soft)).clamp(0, 1) * amount
        self.image.add_((colour - self.image) * cover[:, None])


def soften(image: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) blurred over a thirtieth of their side: by 1 2 1, twice, over ever wider steps."""
    step = 1
    while step == 1 or 32 * step <= image.shape[-1]:
        for dim in (2, 3, 2, 3):
            at, last = torch.arange(image.shape[dim]), image.shape[dim] - 1
            before, after = (image.index_select(dim, (at + d).clamp(0, last)) for d in (-step, step))
            image = image / 2 + (before + after) / 4
        step *= 2
    return image


def wave(at: torch.Tensor) -> torch.Tensor:
    """Smoothly 1 at whole numbers and −1 halfway between them."""
    slope = (2 * (at - at.floor()) - 1).abs()
    return 2 * slope * slope * (3 - 2 * slope) - 1


def circle(u, v, x: float, y: float, r: float) -> torch.Tensor:
    """A disc of radius `r` around (x, y)."""
    return ((u - x) * (u - x) + (v - y) * (v - y)).sqrt() - r


def ellipse(u, v, x: float, y: float, a: float, b: float) -> torch.Tensor:
    """Of half lengths `a` across and `b` up, around (x, y). Exact to first order at the outline; −∞ in the middle."""
    du, dv = (u - x) / a, (v - y) / b
    p, q = du * du, dv * dv
    return (p + q - 1) / (2 * (p / (a * a) + q / (b * b)).sqrt())


def squircle(u, v, a: float, b: float, square: float) -> torch.Tensor:
    """Of half lengths `a` and `b`, around (0, 0): an ellipse where `square` is 0, nearly a box where it is 1."""
    x, y = u / a, v / b
    p, q = x * x, y * y
    smooth = (p + q).sqrt()
    return (smooth + ((p * p + q * q).sqrt().sqrt() - smooth) * square - 1) * (a + b) / 2


def box(u, v, y: float, width: float, height: float) -> torch.Tensor:
    """A box whose middle lies at (0, y), of these half lengths."""
    du, dv = u.abs() - width, (v - y).abs() - height
    right, up = du.clamp(min=0), dv.clamp(min=0)
    return (right * right + up * up).sqrt() + torch.maximum(du, dv).clamp(max=0)


def segment(u, v, start: tuple[float, float], end: tuple[float, float], r: float) -> torch.Tensor:
    """All within `r` of the line from `start` to `end`."""
    ex, ey, du, dv = end[0] - start[0], end[1] - start[1], u - start[0], v - start[1]
    t = ((du * ex + dv * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    return circle(du, dv, ex * t, ey * t, r)


def polygon(u, v, corners: Sequence[tuple[float, float]]) -> torch.Tensor:
    """To the nearest edge; the sign by how often a ray to the right crosses the outline."""
    nearest, inside = torch.full_like(u, torch.inf), torch.zeros_like(u, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey, pu, pv = bx - ax, by - ay, u - ax, v - ay
        t = ((pu * ex + pv * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        du, dv = pu - ex * t, pv - ey * t
        nearest = torch.minimum(nearest, du * du + dv * dv)
        if ey:
            inside ^= ((v < ay) != (v < by)) & (pu < pv * (ex / ey))
    return torch.where(inside, -nearest.sqrt(), nearest.sqrt())

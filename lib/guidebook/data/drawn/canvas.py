"""The canvas of the drawn paintings. Inks are numbers of a palette's colours."""

import functools

import numpy as np
from PIL import Image, ImageDraw


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


@functools.cache
def _clouds() -> np.ndarray:
    """A smooth field (800, 800) from which each painting takes a part."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    field = np.asarray(Image.fromarray(noise).resize((800, 800), Image.Resampling.BICUBIC), np.float32)
    return (field - field.mean()) / field.std()

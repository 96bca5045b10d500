"""One encoded image to pixels: converted rightly, or refused by name."""

import io
import math
import struct
import warnings
import zlib

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = None  # Pillow refuses by the header; what is held of a scaled JPEG is less
FORMATS = ("PNG", "JPEG")  # by the file's first bytes, whatever its name says
PIXELS = 2**25  # more (33 million, 5,793 × 5,793) are not held while one image is decoded: 100 MB in RGB
# The seven passes of an interlaced PNG: first column, first row, columns apart, rows apart
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class BadImage(ValueError):
    """An image that is not whole, not PNG or JPEG, or too large: one line with the reason."""


def quiet() -> None:
    """From here on Pillow's remarks on metadata are not shown: the pixels decide."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


def decode(raw: bytes | None, channels: int, side: int | None = None) -> np.ndarray:
    """The pixels (C, H, W) uint8 of one PNG or JPEG file, C = 1 (grey) or 3 (RGB).

    With `side`, resized so that its shorter side has so many pixels, bilinear and antialiased, and cut to its middle square. A JPEG is
    then decoded at the smallest of the scales 1/8, 1/4, 1/2 and 1 of its cosine transform that leaves at least twice `side` pixels,
    so that it may be as much larger; a progressive one is held whole all the same.

    Upright, as its EXIF orientation says. Transparency becomes white: the image is composited on it. 16-bit values are
    scaled to 8 bits (grey is rounded; colour keeps the high byte, as Pillow reads it). Colour becomes grey by ITU-R 601
    luma, CMYK becomes RGB without a colour profile. Raises BadImage.
    """
    with warnings.catch_warnings():
        quiet()
        return decode_in_thread(raw, channels, side)


def decode_in_thread(raw: bytes | None, channels: int, side: int | None = None) -> np.ndarray:
    """As `decode`. Filters of warnings belong to the whole process, so whoever starts threads calls `quiet` once instead."""
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}: images have 1 or 3")
    if not isinstance(raw, bytes) or not raw:
        raise BadImage("no bytes" if raw is None else "empty" if raw == b"" else f"{type(raw).__name__}, not bytes")
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            width, height = size = image.size  # from the header
            if side and image.format != "PNG":
                _, (_, _, width, height) = image.draft(None, (2 * side, 2 * side))
            if math.prod(size if image.info.get("progressive") else image.size) > PIXELS:
                raise BadImage(f"too large: {size[0]:,} × {size[1]:,} pixels, of which {PIXELS:,} are allowed")
            image.decodermaxblock = len(raw)  # in one piece: between two, threads wait for one another
            image.load()  # all of it: `open` and `verify` take half a file for whole
            if image.format == "PNG":
                _every_row(raw)
            _clear_colour(image, depth=raw[24])  # of a PNG, from its header
            picture = _converted(image, "L" if channels == 1 else "RGB")
            pixels = _small(picture, side, width, height) if side else np.asarray(picture)
            if known := image.getexif():  # turned when it is small: that is less work
                picture = Image.fromarray(pixels)
                picture.getexif().update(known)
                ImageOps.exif_transpose(picture, in_place=True)
                pixels = np.asarray(picture)
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        ours = raw.startswith((b"\x89PNG", b"\xff\xd8"))
        raise BadImage("truncated: its header" if ours else f"neither PNG nor JPEG: begins with {raw[:12]!r}") from None
    except Exception as error:  # a broken file raises nearly anything: OSError, SyntaxError, struct.error, IndexError …
        text = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:100]
        raise BadImage(f"truncated or broken: {text or type(error).__name__}") from None
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def progressive(raw: bytes) -> bool:
    """Whether a file is a JPEG that is stored in several passes over the whole picture."""
    at = 2 if raw.startswith(b"\xff\xd8") else len(raw)
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        kind, size = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # the header of the picture
            return kind in (0xC2, 0xC6, 0xCA, 0xCE)
        at += 1 if kind == 0xFF else 2 + size  # 0xFF may stand before a marker as often as it likes
    return False


def _every_row(raw: bytes) -> None:
    """Raises BadImage where a PNG's data end before its last row: Pillow would leave the rest black."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", raw[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    steps = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in steps]
    expected = sum(h * (1 + (w * bits + 7) // 8) for w, h in parts if w)  # a row begins with the number of its filter
    data, at = b"", 8
    while at + 8 <= len(raw):
        size, kind = struct.unpack(">I4s", raw[at : at + 8])
        data += raw[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    found = len(zlib.decompressobj().decompress(data, expected))
    if found < expected:
        raise BadImage(f"truncated: its rows take {expected:,} bytes, it holds {found:,}")


def _clear_colour(image: Image.Image, depth: int) -> None:
    """Mends what Pillow makes of the one colour that a PNG without alpha declares transparent."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or clear is None or image.mode not in ("L", "RGB"):
        return
    if depth == 16:  # Pillow compares 16 bits with the high bytes that it kept
        raise BadImage("16-bit RGB with a transparent colour, which cannot be read exactly")
    if depth < 8:  # the pixels are scaled to 8 bits, the transparent value is not
        image.info["transparency"] = clear * 255 // (2**depth - 1)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """A decoded image as L or RGB."""
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if (clear := image.info.get("transparency")) is not None:
            grey[grey == clear] = 65535
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _small(image: Image.Image, side: int, width: float, height: float) -> np.ndarray:
    """(side, side) or (side, side, 3), resized and cut as torchvision's Resize and CenterCrop do it.

    A scaled JPEG's last pixels may be covered in part only.
    """
    try:
        flat = pa.array(image)  # the pixels where they lie, of RGB with an empty fourth channel
        pixels = torch.from_dlpack(flat.values if image.mode == "RGB" else flat)
    except ValueError:  # they lie in several blocks
        pixels = torch.from_numpy(np.array(image))
    pixels = pixels.reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2)
    short = min(width, height)
    sizes = [int(side * length / short) for length in (height, width)]
    # PyTorch rounds pixels × scale down to the size: a scale by a millionth too large, and it is the size that is meant.
    scales = [(1 + 1e-6) * size / length for size, length in zip(sizes, (height, width), strict=True)]
    # Pillow's pixels within one of 255, in half the time: of uint8 in this order PyTorch has a kernel of its own.
    small = torch.nn.functional.interpolate(pixels, scale_factor=scales, mode="bilinear", antialias=True)
    y, x = (round((size - side) / 2) for size in sizes)
    cut = small[0, : len(image.getbands()), y : y + side, x : x + side].permute(1, 2, 0)
    return cut.squeeze(-1).numpy()

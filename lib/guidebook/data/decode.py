"""One encoded image to pixels: converted rightly, or refused by name."""

import io
import math
import warnings

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = None  # Pillow refuses by the header; what is held of a scaled JPEG is less
FORMATS = ("PNG", "JPEG")  # by the file's first bytes, whatever its name says
PIXELS = 2**25  # more (33 million, 5,793 × 5,793) are not held while one image is decoded: 100 MB in RGB


class BadImage(ValueError):
    """An image that is not whole, not PNG or JPEG, or too large: one line with the reason."""


def quiet() -> None:
    """From here on Pillow's remarks on metadata are not shown, in all threads: the pixels decide. Before anything is decoded."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


def decode(raw: bytes | None, channels: int, side: int | None = None) -> np.ndarray:
    """The pixels (C, H, W) uint8 of one PNG or JPEG file, C = 1 (grey) or 3 (RGB).

    With `side`, resized so that its shorter side has so many pixels, bilinear and antialiased, and cut to its middle square. A JPEG is
    then decoded at the smallest of the scales 1/8, 1/4, 1/2 and 1 of its cosine transform that leaves at least twice `side` pixels,
    so that it may be as much larger; one whose passes over the picture are stored one after another is held whole all the same.

    Upright, as its EXIF orientation says. Transparency becomes white: the image is composited on it. 16-bit values are
    scaled to 8 bits (grey is rounded; colour keeps the high byte, as Pillow reads it). Colour becomes grey by ITU-R 601
    luma, CMYK becomes RGB without a colour profile. Raises BadImage.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels = {channels}: images have 1 or 3")
    if not isinstance(raw, bytes) or not raw:
        raise BadImage("no bytes" if raw is None else "empty" if raw == b"" else f"{type(raw).__name__}, not bytes")
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            width, height = size = image.size  # from the header
            if side and image.format != "PNG":
                _, (_, _, width, height) = image.draft(None, (2 * side, 2 * side))
            if math.prod(size if _in_passes(raw, image) else image.size) > PIXELS:
                raise BadImage(f"too large: {size[0]:,} × {size[1]:,} pixels, of which {PIXELS:,} are allowed")
            image.decodermaxblock = len(raw)  # in one piece: between two, threads wait for one another
            image.load()  # all of it: `open` and `verify` take half a file for whole
            if image.format == "PNG":
                _every_row(raw, image)
                if "transparency" in image.info and image.mode != "P" and raw[24] != 8:  # the depth in its header
                    raise BadImage(f"a transparent colour of {raw[24]} bits, which Pillow compares with scaled pixels")
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
    """A check for a JPEG that is stored in several passes over the whole picture."""
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        return bool(image.info.get("progressive"))


def _in_passes(raw: bytes, image: Image.Image) -> bool:
    """A check for a JPEG whose coefficients are held until its last pass: a progressive one, or one with a scan for each colour."""
    if image.format == "PNG":
        return False
    at = 2  # of the segments before the first scan, each 0xFF, its kind, and its length
    while raw[at : at + 1] == b"\xff" and raw[at + 1] != 0xDA and at + 4 < len(raw):
        at += 1 if raw[at + 1] == 0xFF else 2 + int.from_bytes(raw[at + 2 : at + 4])
    colours = raw[at + 4] if raw[at : at + 2] == b"\xff\xda" and at + 4 < len(raw) else 0
    return colours < image.layers or bool(image.info.get("progressive"))


def _every_row(raw: bytes, image: Image.Image) -> None:
    """Raises BadImage where a PNG's data end before its last row. Pillow says nothing and leaves the rest of the image as it was,
    so that other pixels are there when it decodes onto another colour."""
    with Image.open(io.BytesIO(raw), formats=FORMATS) as again:
        again.im = Image.new(image.mode, image.size, 1).im
        if again.tobytes() != image.tobytes():
            raise BadImage("truncated: its data end before its last row")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """A decoded image as L or RGB."""
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
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
    if math.prod(sizes) > PIXELS:  # before it is cut to its middle square
        raise BadImage(f"too long: {image.width:,} × {image.height:,} pixels")
    # PyTorch rounds pixels × scale down to the size: a scale by a millionth too large, and it is the size that is meant.
    scales = [(1 + 1e-6) * size / length for size, length in zip(sizes, (height, width), strict=True)]
    # Pillow's pixels within one of 255, in half the time: of uint8 in this order PyTorch has a kernel of its own.
    small = torch.nn.functional.interpolate(pixels, scale_factor=scales, mode="bilinear", antialias=True)
    y, x = (round((size - side) / 2) for size in sizes)
    cut = small[0, : len(image.getbands()), y : y + side, x : x + side].permute(1, 2, 0)
    return cut.squeeze(-1).numpy()

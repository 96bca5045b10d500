"""One image at a time: converted rightly, or refused in one line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, PngImagePlugin

from guidebook.data import decode as module
from guidebook.data.decode import PIXELS, BadImage, decode, progressive, quiet

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
LARGE = RNG.integers(0, 256, (400, 300), dtype=np.uint8)  # Pillow writes 64 kB a chunk
X, Y = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
SMOOTH = np.stack([X, Y, 255 - X], -1).round().astype(np.uint8)  # (32, 48, 3): JPEG keeps it within a few values


@pytest.fixture(autouse=True)
def remarks():
    """Pillow's are left to `decode`."""
    quiet()


def encoded(pixels, format="PNG", mode=None, **options) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[bytes], width: int, depth: int, colour: int, *more: bytes, height: int | None = None) -> bytes:
    """A PNG written by hand, byte by byte: what is in it does not depend on Pillow."""
    header = struct.pack(">IIBBBBB", width, len(rows) if height is None else height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + body + chunk(b"IEND", b"")


# The seven passes of an interlaced PNG: first column, first row, columns apart, rows apart
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced(pixels: np.ndarray) -> bytes:
    """A grey PNG whose rows come in the seven passes of Adam7."""
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for p in passes if p.size for row in p))
    header = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tRNS(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return 255 + (pixels.astype(float) - 255) * alpha / 255


def off(raw: bytes, expected: np.ndarray) -> float:
    """The largest difference between a decoded image and (H, W) or (H, W, 3) expected values."""
    pixels = decode(raw, 1 if expected.ndim == 2 else 3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((1, *expected.shape) if expected.ndim == 2 else (3, *expected.shape[:2]))
    return np.abs((pixels[0] if expected.ndim == 2 else pixels.transpose(1, 2, 0)) - expected.astype(float)).max()


# Conversions: (the file, the pixels it must give, the largest difference allowed)

BITS = np.array([[0, 1, 0, 1], [1, 0, 1, 0]])
WIDE = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)
WIDE_RGB = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
PALETTE = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
INDEX = RNG.integers(0, 16, (6, 9))
COVER = np.array([0, 255, 100, *[255] * 13])


def palette(*more: bytes) -> bytes:
    return png([r.astype(np.uint8).tobytes() for r in INDEX], 9, 8, 3, chunk(b"PLTE", PALETTE.tobytes()), *more)


CONVERTED = {
    "grey": (encoded(GREY), GREY, 0),
    "colour": (encoded(RGB), RGB, 0),
    "grey wanted in colour": (encoded(GREY), np.stack([GREY] * 3, -1), 0),
    "colour wanted in grey": (encoded(RGB), luma(RGB), 1),
    "interlaced": (interlaced(GREY), GREY, 0),
    "interlaced, 1 column": (interlaced(GREY[:, :1]), GREY[:, :1], 0),
    "data in many chunks": (encoded(LARGE), LARGE, 0),
    "1 bit": (png([b"\x50", b"\xa0"], 4, 1, 0), BITS * 255, 0),
    "2 bits": (png([b"\x1b"], 4, 2, 0), np.array([[0, 85, 170, 255]]), 0),
    "4 bits": (png([b"\x05\xaf"], 4, 4, 0), np.array([[0, 85, 170, 255]]), 0),
    "16-bit grey": (png([r.astype(">u2").tobytes() for r in WIDE], 9, 16, 0), WIDE / 257, 0.51),
    "16-bit grey wanted in colour": (
        png([r.astype(">u2").tobytes() for r in WIDE], 9, 16, 0), np.stack([WIDE / 257] * 3, -1), 0.51,
    ),
    "16-bit colour": (png([r.astype(">u2").tobytes() for r in WIDE_RGB], 9, 16, 2), WIDE_RGB / 257, 1),
    "16-bit colour wanted in grey": (
        png([r.astype(">u2").tobytes() for r in WIDE_RGB], 9, 16, 2), luma(WIDE_RGB / 257), 2,
    ),
    "grey, one value clear": (
        png([bytes([0, 100, 200])], 3, 8, 0, tRNS(100)), np.array([[0, 255, 200]]), 0,
    ),
    "colour, one value clear": (
        png([bytes([1, 2, 3, 4, 5, 6])], 2, 8, 2, tRNS(1, 2, 3)), np.array([[[255] * 3, [4, 5, 6]]]), 0,
    ),
    "palette": (palette(), PALETTE[INDEX], 0),
    "palette wanted in grey": (palette(), luma(PALETTE[INDEX]), 1),
    "palette with transparency": (
        palette(chunk(b"tRNS", bytes(COVER[:3].tolist()))), on_white(PALETTE[INDEX], COVER[INDEX][..., None]), 1,
    ),
    "grey with alpha": (encoded(np.stack([GREY, ALPHA], -1)), on_white(GREY, ALPHA), 1),
    "colour with alpha": (encoded(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA[..., None]), 1),
    "colour with alpha, in grey": (encoded(np.dstack([RGB, ALPHA])), luma(on_white(RGB, ALPHA[..., None])), 2),
    "CMYK": (encoded(SMOOTH, "JPEG", "CMYK", quality=100), SMOOTH, 6),
    "CMYK wanted in grey": (encoded(SMOOTH, "JPEG", "CMYK", quality=100), luma(SMOOTH), 6),
    "JPEG": (encoded(SMOOTH, "JPEG", quality=95), SMOOTH, 8),
    "progressive JPEG": (encoded(SMOOTH, "JPEG", quality=95, progressive=True), SMOOTH, 8),
    "grey JPEG": (encoded(SMOOTH, "JPEG", "L", quality=95), luma(SMOOTH), 5),
}  # fmt: skip


def turned(orientation: int, pixels: np.ndarray) -> np.ndarray:
    """What is stored where a camera of this EXIF orientation means `pixels`: the inverse of what a viewer does."""
    undo = {
        2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1), 6: np.rot90,
        7: lambda x: np.rot90(x.swapaxes(0, 1), 2), 8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    return np.ascontiguousarray(undo.get(orientation, lambda x: x)(pixels))


def rotated(orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(turned(orientation, SMOOTH), format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))


CONVERTED |= {
    f"EXIF orientation {o}, {f}": (rotated(o, f), SMOOTH, 0 if f == "PNG" else 8)
    for o in range(1, 9)
    for f in ("PNG", "JPEG")
}


@pytest.mark.parametrize("case", CONVERTED)
def test_an_image_is_converted_rightly(case):
    raw, expected, allowed = CONVERTED[case]
    assert off(raw, expected) <= allowed


def test_what_is_wholly_transparent_is_white_whatever_colour_it_hides():
    clear = np.dstack([RGB, np.zeros_like(ALPHA)])
    assert decode(encoded(clear), 3).min() == 255


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_leaves_the_pixels_as_they_are_stored(exif):
    assert off(encoded(SMOOTH, "JPEG", quality=95, exif=exif), SMOOTH) <= 8


# Refusals: (the file, what the line must say)

BIG = PngImagePlugin.PngInfo()
BIG.add_text("note", "x" * 80_000_000, zip=True)
REFUSED = {
    "no bytes": (None, "no bytes"),
    "empty": (b"", "empty"),
    "text for bytes": ("x", "str, not bytes"),
    "HTML": (b"<!doctype html><title>404</title>", "neither PNG nor JPEG: begins with b'<!doctype ht'"),
    "a line end and a terminal code": (b"\n\x1b[31m", r"begins with b'\n\x1b[31m'"),
    "GIF": (encoded(GREY, "GIF"), "neither PNG nor JPEG: begins with b'GIF87a"),
    "TIFF": (encoded(GREY, "TIFF"), "neither PNG nor JPEG"),
    "BMP": (encoded(GREY, "BMP"), "neither PNG nor JPEG"),
    "WebP": (encoded(RGB, "WEBP"), "neither PNG nor JPEG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "neither PNG nor JPEG"),
    "half a PNG": (encoded(RGB)[: len(encoded(RGB)) // 2], "truncated"),
    "half a JPEG": (encoded(SMOOTH, "JPEG")[:700], "truncated"),
    "half a progressive JPEG": (encoded(SMOOTH, "JPEG", progressive=True)[:450], "truncated"),
    "the first bytes of a PNG": (encoded(RGB)[:10], "truncated: its header"),
    "the first bytes of a JPEG": (encoded(SMOOTH, "JPEG")[:3], "truncated"),
    "PNG of fewer rows than it says": (png([b"\0" * 9] * 3, 9, 8, 0, height=6), "truncated"),
    "PNG that does not unpack": (encoded(RGB).replace(b"IDAT\x78", b"IDAT\x00"), "truncated or broken"),
    "no pixels": (png([], 0, 8, 0), ""),
    "a bomb": (png([b"\0"], 60_000, 1, 0, height=60_000), "too large"),
    "a bomb that Pillow would only warn of": (png([b"\0"], 10_000, 1, 0, height=10_000), "too large"),
    "a bomb that Pillow would read": (png([b"\0"], 8_000, 1, 0, height=8_000), "too large: 8,000 × 8,000 pixels"),
    "a bomb of text": (encoded(GREY, pnginfo=BIG), "truncated or broken: Decompressed data too large"),
    "16-bit colour, one value clear": (png([b"\1\2" * 6], 2, 16, 2, tRNS(258, 258, 258)), "colour of 16 bits"),
    "16-bit grey, one value clear": (png([b"\1\2" * 3], 3, 16, 0, tRNS(258)), "a transparent colour of 16 bits"),
    "2-bit grey, one value clear": (png([b"\x1b"], 4, 2, 0, tRNS(1)), "a transparent colour of 2 bits"),
}  # fmt: skip


def refusal(raw, channels: int = 1) -> str:
    with pytest.raises(BadImage) as caught:
        decode(raw, channels)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert said.isprintable()
    assert len(said) < 200
    return said


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_image_is_refused_in_one_line(case, channels):
    raw, said = REFUSED[case]
    assert said in refusal(raw, channels)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    side = int(PIXELS**0.5)
    assert refusal(png([b"\0"], side, 1, 0, height=side)).startswith("truncated")  # as many as are allowed: it is read

    def load(_):
        raise AssertionError("unpacked")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    for width in (side + 2, 10 * side, 60_000):
        assert refusal(png([b"\0"], width, 1, 0, height=side)).startswith("too large")


def test_of_a_scaled_jpeg_only_what_is_held_counts(monkeypatch):
    """Scans of paintings have hundreds of millions of pixels; a progressive one is held whole while it is decoded."""
    raws = {kind: encoded(photograph(400, 301), "JPEG", progressive=kind) for kind in (False, True)}
    small = decode(raws[False], 3, 32)
    monkeypatch.setattr(module, "PIXELS", 400 * 301 // 10)
    assert np.array_equal(decode(raws[False], 3, 32), small)
    for raw, side in ((raws[False], None), (raws[False], 128), (raws[True], 32)):
        with pytest.raises(BadImage, match="too large: 400 × 301 pixels, of which 12,040 are allowed"):
            decode(raw, 3, side)


def in_passes(side: int) -> bytes:
    """A baseline JPEG with a scan for each of three colours, all of its coefficients 0."""
    quantizers = struct.pack(">HHB", 0xFFDB, 67, 0) + bytes([1] * 64)
    frame = struct.pack(">HHBHHB", 0xFFC0, 17, 8, side, side, 3) + b"".join(bytes([c, 0x11, 0]) for c in (1, 2, 3))
    codes = b"".join(struct.pack(">HHB", 0xFFC4, 20, kind << 4) + bytes([1] + 16 * [0]) for kind in (0, 1))
    scans = (
        struct.pack(">HHB", 0xFFDA, 8, 1) + bytes([c, 0, 0, 63, 0]) + bytes((side // 8) ** 2 // 4) for c in (1, 2, 3)
    )
    return b"\xff\xd8" + quantizers + b"\xff\xff" + frame[1:] + codes + b"".join(scans) + b"\xff\xd9"


def test_a_jpeg_with_a_scan_for_each_colour_is_held_whole_and_counted_so(monkeypatch):
    raw = in_passes(400)
    assert (decode(raw, 3, 16) == 128).all()
    monkeypatch.setattr(module, "PIXELS", 400 * 400 - 1)
    with pytest.raises(BadImage, match="too large: 400 × 400 pixels"):
        decode(raw, 3, 16)
    assert decode(encoded(photograph(400, 400), "JPEG"), 3, 16).shape == (3, 16, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_what_would_become_too_long_is_refused_before_it_is_resized(kind, size, monkeypatch):
    raw = encoded(Image.new("L", size), kind)
    assert decode(raw, 1, 8).shape == (1, 8, 8)
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda *_, **__: pytest.fail("resized"))
    with pytest.raises(BadImage, match="too long: "):
        decode(raw, 1, 64)


@pytest.mark.parametrize(
    ("depth", "colour", "channels"),
    [(1, 0, 1), (4, 0, 1), (8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3), (2, 3, 1), (8, 3, 1), (8, 4, 2), (16, 6, 4)],
)
def test_a_png_of_fewer_rows_than_it_says_is_refused_whatever_its_pixels_are(depth, colour, channels):
    colours = [chunk(b"PLTE", PALETTE.tobytes())] if colour == 3 else []
    for pixel in (b"\0", b"\1", b"\xff") if depth == 8 and colour != 3 else (b"\0",):
        row = pixel * -(-9 * depth * channels // 8)
        decode(png([row] * 6, 9, depth, colour, *colours), 3)
        for rows in (0, 5):
            assert "truncated" in refusal(png([row] * rows, 9, depth, colour, *colours, height=6), 3)


def test_a_progressive_jpeg_is_told_from_the_others():
    raws = {kind: encoded(SMOOTH, "JPEG", progressive=kind) for kind in (False, True)} | {None: encoded(SMOOTH)}
    assert [kind for kind, raw in raws.items() if progressive(raw)] == [True]


CUT = {
    "PNG": encoded(RGB),
    "16-bit PNG": CONVERTED["16-bit grey"][0],
    "palette": palette(),
    "JPEG": encoded(SMOOTH, "JPEG"),
    "progressive JPEG": encoded(SMOOTH, "JPEG", progressive=True),
    "CMYK": encoded(SMOOTH, "JPEG", "CMYK"),
}


@pytest.mark.parametrize("case", CUT)
def test_a_file_cut_anywhere_is_refused_or_gives_every_pixel(case):
    raw = CUT[case]
    whole, given = decode(raw, 3), []
    for n in range(len(raw)):
        try:
            given.append(np.array_equal(decode(raw[:n], 3), whole))
        except BadImage:
            continue
    assert all(given)
    assert len(given) <= 30  # where only what follows the pixels is missing


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"channels = {channels}"):
        decode(encoded(GREY), channels)


def test_truncated_files_are_never_filled_up():
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert "LOAD_TRUNCATED" not in Path(module.__file__).read_text()


def photograph(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 with detail at every scale, as photographs have it: amplitude falls with frequency."""
    rng = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    waves = [
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.3, (height, width))
        for _ in range(3)
    ]
    pixels = np.stack([128 + 45 * w / w.std() for w in waves], -1)
    return pixels.clip(0, 255).astype(np.uint8)


def full(pixels: np.ndarray, side: int) -> np.ndarray:
    """(3, side, side): resized by Pillow at full resolution, then cut to the middle."""
    h, w, _ = pixels.shape
    sizes = [int(side * length / min(h, w)) for length in (w, h)]
    x, y = (round((size - side) / 2) for size in sizes)
    small = Image.fromarray(pixels).resize(sizes, Image.Resampling.BILINEAR)
    return np.asarray(small.crop((x, y, x + side, y + side))).transpose(2, 0, 1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(float) - b).mean()
    return 10 * np.log10(255**2 / error) if error else np.inf


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    ("size", "side"), [((643, 601), 128), ((643, 601), 64), ((405, 701), 48), ((643, 601), 16), ((301, 290), 200)]
)
def test_a_jpeg_decoded_small_is_what_it_would_be_at_full_size(size, side, progressive):
    raw = encoded(photograph(*size), "JPEG", quality=80, progressive=progressive)
    small, whole = decode(raw, 3, side), full(decode(raw, 3).transpose(1, 2, 0), side)
    assert small.shape == whole.shape == (3, side, side)
    assert psnr(small, whole) > 45
    assert psnr(np.roll(small, 1, 2), whole) < 40  # one pixel beside it would be seen


def test_a_picture_decoded_small_is_upright_and_not_torn_out_of_its_middle():
    pixels = photograph(400, 301)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by a quarter
    raw = encoded(pixels, "JPEG", quality=90, exif=sideways)
    assert psnr(decode(raw, 3, 32), full(decode(raw, 3).transpose(1, 2, 0), 32)) > 45
    png = encoded(pixels, "PNG")
    assert np.abs(decode(png, 3, 32).astype(int) - full(pixels, 32)).max() <= 1
    assert decode(encoded(pixels[..., 0], "PNG"), 1, 32).shape == (1, 32, 32)


@pytest.mark.parametrize("colours", ["RGB", "L"])
def test_pixels_are_the_same_from_one_block_of_memory_and_from_several(colours):
    raw = encoded(np.asarray(Image.fromarray(photograph(400, 301)).convert(colours)), "JPEG", quality=90)
    channels = {"RGB": 3, "L": 1}[colours]
    one, before = decode(raw, channels, 128), Image.core.get_block_size()
    Image.core.set_block_size(2**14)
    try:
        with pytest.raises(ValueError, match="contiguous"):
            pa.array(Image.new(colours, (400, 300)))
        assert np.array_equal(decode(raw, channels, 128), one)
    finally:
        Image.core.set_block_size(before)


def test_a_broken_jpeg_is_refused_at_a_small_size_too():
    raw = encoded(photograph(400, 301), "JPEG", quality=80)
    for cut in (len(raw) // 2, 200, 0):
        with pytest.raises(BadImage):
            decode(raw[:cut], 3, 16)

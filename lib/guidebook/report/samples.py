"""Images side by side on a page, each in its own pixels: the browser enlarges them, smoothly or not, and labels are text."""

import base64
import io
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from guidebook.report.tables import Html, escaped
from guidebook.sampling.sets import sheet


def samples(
    images: np.ndarray, columns: int, rows: Sequence[str] = (), heads: Sequence[str] = (), tile: int = 68
) -> Html:
    """Images (N, C, H, W) uint8 row by row, each shown about `tile` pixels wide; names of rows, and `heads` of columns.

    One lossless picture, with a transparent pixel between images. Where a notebook runs, it is shown beneath the cell.
    """
    lines, width = -(-len(images) // columns), columns * max(tile, images.shape[-1])
    said = f"{len(images)} images in {lines} rows" + (f" ({'; '.join(rows)})" if len(rows) else "")
    said += f" and {columns} columns" + (f" ({'; '.join(heads)})" if len(heads) else "")
    picture, longest = _picture(images, columns), max((len(w) for head in heads for w in head.split()), default=0)
    tall = " tall" * (longest * len(heads) > 60)  # too many letters side by side: written upwards
    parts = [
        f'<div class="{name}" style="display: flex; {style}">{"".join(f"<span>{escaped(w)}</span>" for w in words)}</div>'
        for name, words, style in (
            (f"heads{tall}", heads, "grid-column: 2; justify-content: space-around"),
            ("rows", rows, "flex-direction: column; justify-content: space-around"),
        )
        if len(words)
    ]
    shown = Html(
        f'<div class="samples" style="display: grid; grid-template-columns: auto {width}px">{"".join(parts)}'
        f'<img style="grid-column: 2" src="data:image/webp;base64,{picture}" width="{width}"'
        f' height="{round(width * lines * images.shape[-2] / columns / images.shape[-1])}" alt="{escaped(said)}"></div>'
    )
    if (ipython := sys.modules.get("IPython")) and ipython.get_ipython():
        ipython.display.display(shown)
    return shown


def _picture(images: np.ndarray, columns: int) -> str:
    """Images side by side as WebP without loss, in base64."""
    n, channels, height, width = images.shape
    colour = np.repeat(images, 3, 1) if channels == 1 else images
    pixels = np.pad(
        np.concatenate([colour, np.full((n, 1, height, width), 255, np.uint8)], 1), ((0, 0), (0, 0), (0, 1), (0, 1))
    )
    file = io.BytesIO()
    Image.fromarray(sheet(pixels, columns)[:-1, :-1]).save(file, "WEBP", lossless=True, method=4)
    return base64.b64encode(file.getvalue()).decode()

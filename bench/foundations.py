"""The page that teaches the foundations, executed: it trains a network, which takes longer than drawing a page may."""

import base64
import io
import json
import tempfile
from pathlib import Path

from PIL import Image

from guidebook.book import outputs
from guidebook.book.notebook import execute
from guidebook.config.params import Params
from guidebook.config.paths import NOTEBOOKS, RESULTS
from guidebook.runs.manifest import write

NAME = "foundations.ipynb"


def foundations(params: Params) -> Path:
    """Executes the notebook on one thread and keeps its outputs; the params are those it begins from. Raises NotebookFailed."""
    with tempfile.TemporaryDirectory() as place:
        execute(NOTEBOOKS / NAME, executed := Path(place) / NAME, {}, threads=1)
        page = outputs.page(NOTEBOOKS / NAME, executed)
    for output in (o for cell in page["cells"] for o in cell.get("outputs", [])):
        if picture := output.get("data", {}).get("image/png"):
            output["data"]["image/png"] = packed(picture)
    write(RESULTS / NAME, json.dumps(page, indent=1, ensure_ascii=False) + "\n")
    return RESULTS / NAME


def packed(picture: str) -> str:
    """A PNG, in base64, packed as small as it can be: it is kept in the repository."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()

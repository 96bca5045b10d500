"""A new experiment on images of one's own: params and a notebook, written from a template."""

import io
import itertools
import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from guidebook.config import own
from guidebook.config.params import ParamsError, check_word, load
from guidebook.config.paths import NOTEBOOKS, PARAMS
from guidebook.data.cache import Cache, allow
from guidebook.data.decode import quiet
from guidebook.data.shards import Shards
from guidebook.runs.progress import Bar

TEMPLATE = NOTEBOOKS / "template"  # own.ipynb, demo.yml, smoke.yml
SEEN = 8000  # images of the demo's training: minutes on two CPU cores
DECODED = 1000  # images, at most, that are decoded to see whether they can be
SIDE = 32  # pixels that they are decoded to
REPEATED = 10  # images of a caption from which on it may be a class
log = logging.getLogger(__name__)


def written(name: str, path: Path) -> list[Path]:
    """`params/<name>/demo.yml`, `smoke.yml` and `notebooks/<name>.ipynb` for the images below a path; they replace nothing.

    Raises DataError where the images lack something, ParamsError where the name is taken or none, or the images have attributes.
    """
    check_word(name, "name")
    folder, notebook = PARAMS / name, NOTEBOOKS / f"{name}.ipynb"
    for taken in (folder, notebook):
        if taken.exists():
            raise ParamsError(f"{taken} is there already: take another name, or delete it")
    path = _place(path)
    images = own.found(path)
    if images.contents.entry.attributes:
        change = f"guidebook run celeba --set data.name={own.NAME} --set data.path={path}"
        raise ParamsError(f"these are faces with CelebA's attributes, and have an experiment: {change}")
    folder.mkdir(parents=True)
    try:
        words = _words(name, path, images)
        for profile in ("demo", "smoke"):
            (folder / f"{profile}.yml").write_text((TEMPLATE / f"{profile}.yml").read_text().format(**words))
            load(name, profile)
    except ParamsError:
        shutil.rmtree(folder)
        raise
    notebook.write_text(json.dumps(_cells(words), indent=1, ensure_ascii=False) + "\n")
    return [folder / "demo.yml", folder / "smoke.yml", notebook]


def found(path: Path) -> list[str]:
    """Description of what lies below a path, a line or some. Raises DataError, also where more images are bad than a run skips."""
    images = own.found(_place(path))
    there, n = images.contents, images.contents.train + images.contents.test
    sizes = sorted(_sizes(images), key=math.prod)
    pixels = " to ".join(dict.fromkeys(f"{width}×{height}" for width, height in (*sizes[:1], *sizes[-1:])))
    _, _, counts = there.entry.note.partition(": ")
    lines = [f"found {counts}" + (f"; {pixels} pixels" if pixels else "")]
    if n > DECODED:
        lines.append(f"decoded the first {DECODED:,} of these images: guidebook run decodes every one")
    if 1 < there.captions <= n // REPEATED:
        lines.append(
            f"only {there.captions} captions for {n:,} images: where they are classes, put the images of each into a folder that it "
            "names, without metadata, and a judge will read the samples"
        )
    return lines


def _place(path: Path) -> str:
    return str(path.expanduser().absolute())


def _sizes(images: own.Own) -> list[tuple[int, int]]:
    """Width and height of the first images, each decoded: a bad one is skipped by name as in a run, or refused. Raises DataError."""
    quiet()
    entry, sizes = images.contents.entry, []
    shards = Shards(images.files["train"], entry.image, entry.label, entry.labels, None, images.files["test"], images)
    cache = Cache(own.NAME, shards, SIDE, entry.bad_share)
    every = (row for group in range(len(shards.groups)) for row in shards.read(group))
    total = min(DECODED, shards.rows)
    for row in Bar(itertools.islice(every, total), "decoding images", total, unit="image", delay=2, leave=False):
        cache.image(row)
        if row.number not in cache.bad:
            with Image.open(io.BytesIO(row.raw)) as image:
                sizes.append(image.size)
    if bad := cache.skipped:
        log.warning("%s", allow(bad, len(bad), shards.rows, entry.bad_share, own.NAME))
    return sizes


def _words(name: str, path: str, images: own.Own) -> dict[str, Any]:
    """Values by name for the blanks of the templates."""
    there, entry = images.contents, images.contents.entry
    kinds, epochs = len(entry.classes), max(1, SEEN // there.train)
    longest = max(len(re.findall(r"\w+|[^\w\s]", text)) for text in images.captions or entry.classes)
    words = {
        "own": own.NAME, "name": name, "note": entry.note[0].upper() + entry.note[1:], "path": json.dumps(path, ensure_ascii=False),
        "epochs": epochs, "checkpoint": max(1, epochs // 5), "few": round(max(0.001, 96 / there.train), 4),
        "samples": kinds * max(3, -(-100 // kinds)), "least": kinds * max(3, -(-30 // kinds)),
    }  # fmt: skip
    if entry.captioned:
        return words | {
            "kind": "caption", "caption": "phrasings: 1", "tokens": min(77, 2 + longest), "groups": '("blind", "colour", "copying")',
            "row": "caption, by its number in the table above", "prompts": "  # captions of held-out images",
            "rows": "[str(i + 1) for i in range(len(prompts))]",
        }  # fmt: skip
    return words | {
        "kind": "class", "row": "class", "caption": 'caption: "A photo of a {label}"', "tokens": min(77, 6 + longest),
        "groups": '("judge", "blind", "colour", "copying")', "prompts": "", "rows": "prompts",
    }  # fmt: skip


def _cells(words: dict[str, Any]) -> dict:
    """The template's notebook without the cells of the other kind of data, and with what it leaves open filled in."""
    notebook, other = json.loads((TEMPLATE / "own.ipynb").read_text()), {"class": "captions", "caption": "classes"}
    notebook["cells"] = [c for c in notebook["cells"] if other[words["kind"]] not in c["metadata"].get("tags", [])]
    for number, cell in enumerate(notebook["cells"]):
        tags = [tag for tag in cell["metadata"].get("tags", []) if tag not in other.values()]
        cell |= {"id": str(number), "metadata": {"tags": tags} if tags else {}}
        cell["source"] = [re.sub(r"{(name|row|prompts|rows|groups)}", lambda m: words[m[1]], x) for x in cell["source"]]
    return notebook

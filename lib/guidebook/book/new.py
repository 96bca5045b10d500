"""A new experiment on images of one's own: params and a notebook, written from a template."""

import json
import re
import shutil
from pathlib import Path

from guidebook.config import own
from guidebook.config.params import ParamsError, check_word, load
from guidebook.config.paths import NOTEBOOKS, PARAMS

TEMPLATE = NOTEBOOKS / "template"  # own.ipynb, demo.yml, smoke.yml
SEEN = 8000  # images of the demo's training: minutes on two CPU cores
KINDS = {"classes", "captions"}  # tags of the template's cells that one kind of data has alone


def written(name: str, path: Path) -> list[Path]:
    """`params/<name>/demo.yml`, `smoke.yml` and `notebooks/<name>.ipynb` for the images below a path; they replace nothing.

    Raises DataError where the images lack something, ParamsError where the name is taken or none, or the images have attributes.
    """
    check_word(name, "name")
    folder, notebook = PARAMS / name, NOTEBOOKS / f"{name}.ipynb"
    for taken in (folder, notebook):
        if taken.exists():
            raise ParamsError(f"{taken} is there already: take another name, or delete it")
    path = path.expanduser().absolute()
    images = own.found(str(path))
    there, entry = images.contents, images.contents.entry
    if entry.attributes:
        change = f"--set data.name={own.NAME} --set data.path={path}"
        raise ParamsError(
            f"these are faces with CelebA's attributes, and have an experiment: guidebook run celeba {change}"
        )
    kinds, epochs = len(entry.classes), max(1, SEEN // there.train)
    caption, before = ("phrasings: 1", 0) if entry.captioned else ('caption: "A photo of a {label}"', 4)
    longest = max(len(re.findall(r"\w+|[^\w\s]", text)) for text in images.captions or entry.classes)
    words = {
        "own": own.NAME, "name": name, "note": entry.note[0].upper() + entry.note[1:], "path": json.dumps(str(path), ensure_ascii=False),
        "caption": caption, "tokens": min(77, 2 + before + longest),
        "epochs": epochs, "checkpoint": max(1, epochs // 5), "few": round(max(0.001, 96 / there.train), 4),
        "samples": kinds * max(3, -(-100 // kinds)), "least": kinds * max(3, -(-30 // kinds)),
    }  # fmt: skip
    kind = "captions" if entry.captioned else "classes"
    cells = json.loads((TEMPLATE / "own.ipynb").read_text())
    cells["cells"] = [c for c in cells["cells"] if not KINDS & {*c["metadata"].get("tags", [])} - {kind}]
    for number, cell in enumerate(cells["cells"]):
        tags = [tag for tag in cell["metadata"].pop("tags", []) if tag not in KINDS]
        cell |= {"id": str(number), "metadata": {"tags": tags} if tags else {}}
        cell["source"] = [_filled(line, name, there) for line in cell["source"]]
    folder.mkdir(parents=True)
    try:
        for profile in ("demo", "smoke"):
            (folder / f"{profile}.yml").write_text((TEMPLATE / f"{profile}.yml").read_text().format(**words))
            load(name, profile)
    except ParamsError:
        shutil.rmtree(folder)
        raise
    notebook.write_text(json.dumps(cells, indent=1, ensure_ascii=False) + "\n")
    return [folder / "demo.yml", folder / "smoke.yml", notebook]


def _filled(line: str, name: str, there: own.Contents) -> str:
    """A line of the template with the name and the number of the images."""
    title = f"{name}: {there.train + there.test:,} images of one's own"
    images = f"{there.train:,} images of one's own, with {there.test:,} more held out"
    return line.replace("{name}", name).replace("{title}", title).replace("{images}", images)

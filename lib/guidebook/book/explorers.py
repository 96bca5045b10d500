"""Explorers among the pages: a section on each page whose run kept samples, and a list of these."""

import json
from pathlib import Path

from guidebook.report.explorer import explorer
from guidebook.report.tables import escaped
from guidebook.runs.run import Run

TEXT = """## Explore

Choose a prompt and two settings, above all of the guidance scale $w$; both are shown with the same seeds. The images are what the model made, pixel by pixel.
What was measured, of all samples of a setting, stands below with 95 % intervals; the dashed line is what real images score."""
LIST = "<!-- explorers -->"  # its place on the page of the explorer


def section(file: str, run: Run | None, source: Path) -> list[dict]:
    """The cells of a page, at `file` among the sources, that explore a run's samples: one, or none where it kept too few."""
    if run is None:
        return []
    up = "../" * file.count("/")
    block = explorer(run, source / "_assets" / _place(run), f"{up}{_place(run)}/")
    text = f'{TEXT}\n\n{block}\n<script defer src="{up}js/explorer.js"></script>'
    return [{"cell_type": "markdown", "id": "explore", "metadata": {}, "source": text}] if block else []


def index(chapters: list[tuple[str, Run, str, str]], source: Path) -> None:
    """Lists the pages that have such a section on the page of the explorer, each (file, run, title, data) with a row of its samples."""
    lines = []
    for file, run, title, data in chapters:
        if (source / "_assets" / _place(run)).exists():
            row, name = f'<img class="dark-light" alt="" src="{_place(run)}/row.png">', run.name.replace("/", "-")
            lines.append(f'<li><a href="{file}.html#explore-{name}">{row}{escaped(title)}</a><br>{escaped(data)}</li>')
    if (page := source / "explorer.ipynb").exists():
        found = f'<ul class="explorers">{"".join(lines)}</ul>'
        page.write_text(page.read_text().replace(LIST, json.dumps(found)[1:-1]))


def _place(run: Run) -> str:
    """Where the images of a run lie, beside the pages."""
    return f"samples/{run.params.experiment}-{run.params.profile}"

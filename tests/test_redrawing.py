"""Redrawing a page reads records: none of its imports takes the seconds of diffusers or transformers."""

import subprocess
import sys

from guidebook.config.paths import NOTEBOOKS, RESULTS

HEAVY = ("diffusers", "transformers", "torchmetrics", "torchvision", "scipy", "sklearn")
SHOWS = f"""
import ast, json, sys
from pathlib import Path

for page in sorted(Path({str(NOTEBOOKS)!r}).glob("*.ipynb")):
    for cell in json.loads(page.read_text())["cells"]:
        if cell["cell_type"] == "code":
            imports = [n for n in ast.parse("".join(cell["source"])).body if isinstance(n, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), page.name, "exec"), {{}})

from guidebook.export.card import card
from guidebook.report import banner, charts, claims, figures, loading, performance, tables, widgets
from guidebook.runs.run import opened
from guidebook.sampling.sets import stored

run = opened(Path({str(RESULTS)!r}) / "mnist" / "paper")
sets = [stored(folder) for folder in run.path.glob("samples/w*")]
figures.grid(sets[0].images)
figures.loss_curves({{"a": run.stats()}})
tables.metric_table([r for r in run.metrics() if r["guidance"] is not None])
banner.banner(run)
print(len(sets), *(name for name in {HEAVY!r} if name in sys.modules))
"""


def test_the_imports_of_every_notebook_and_all_that_draws_a_recorded_page_leave_the_heavy_libraries_out():
    done = subprocess.run([sys.executable, "-c", SHOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sets, *heavy = done.stdout.split()
    assert int(sets) > 3
    assert heavy == []


LIGHT = f"""
import sys
from pathlib import Path

from guidebook.metrics.measure import judge_record, measure
from guidebook.runs.run import opened
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import mosaic

run = opened(Path({str(RESULTS)!r}) / "mnist" / "paper")
sets = [draw(run, w, run.params.evaluate.samples) for w in run.params.sample.guidance]
pictures = [mosaic(s.pixels[:20]) for s in sets]
records = [r for s in sets for r in measure(run, s)]
judge_record(run)
print(len(pictures), len(records), *(name for name in ("torch", "accelerate", *{HEAVY!r}) if name in sys.modules))
"""


def test_samples_and_records_of_a_recorded_run_are_found_and_shown_without_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sets, records, *heavy = done.stdout.split()
    assert int(sets) > 3
    assert int(records) >= 4 * int(sets)
    assert heavy == []

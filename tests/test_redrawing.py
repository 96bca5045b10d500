"""Redrawing a page reads records: none of its imports takes the seconds of diffusers or transformers, and no figure those of torch."""

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
from guidebook.metrics.measure import judge_record, measure
from guidebook.report import banner, charts, claims, figures, loading, performance, tables, widgets
from guidebook.runs.run import opened
from guidebook.sampling.sets import stored

run = opened(Path({str(RESULTS)!r}) / "mnist" / "paper")
sets = [stored(folder) for folder in run.path.glob("samples/w*")]
figures.grid(sets[0].pixels)
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


DRAWS = f"""
import sys
from pathlib import Path

from guidebook import training
from guidebook.export.card import card
from guidebook.metrics.measure import judge_record, measure
from guidebook.report import banner, charts, claims, explorer, figures, loading, performance, tables, widgets
from guidebook.runs.run import opened
from guidebook.sampling.draw import draw
from guidebook.sampling.explore import trajectory
from guidebook.sampling.sets import examples

run = opened(Path({str(RESULTS)!r}) / "mnist" / "paper")
training.train(run)
training.train(run.variant("caption-dropout", train={{"caption_dropout": 0.1}}))
classes, real = "0123456789", [r for r in run.metrics() if r["guidance"] is None]
figures.grid(examples(run).pixels, heads=classes)
figures.trajectory(trajectory(run, 1.0))
sets = [draw(run, w, run.params.evaluate.samples) for w in (1.0, 5.0)]
figures.guidance_grid(sets, classes)
figures.by_class(sets[0], classes)
explorer.explorer(run, Path(sys.argv[1]), "x/")
widgets.live_explorer(run)
figures.loss_by_timestep({{"a": run.stats()}}, run.params.objective.timesteps)
figures.schedules({{"a": run.params.objective}})
figures.image_errors(run.params.objective, 10)
charts.against_guidance({{"a": [r for r in run.metrics() if r["guidance"] is not None]}}, ["adherence", "grain"], real)
card(run)
records = [r for s in sets for r in measure(run, s)]
judge_record(run)
print(len(records), *(name for name in ("torch", "accelerate", *{HEAVY!r}) if name in sys.modules))
"""


def test_a_trained_run_its_samples_records_figures_tables_widgets_and_card_are_shown_without_torch(tmp_path):
    done = subprocess.run([sys.executable, "-c", DRAWS, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    records, *heavy = done.stdout.split()
    assert int(records) >= 8
    assert heavy == []

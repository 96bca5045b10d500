"""The library from Python: every snippet of the book's page runs, and an import costs nothing."""

import io
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import guidebook
from guidebook.cli import app
from guidebook.config.params import ParamsError, load
from guidebook.config.paths import BOOK, RESULTS
from guidebook.metrics.groups import GROUPS
from guidebook.metrics.measure import measure
from guidebook.runs.run import NotRecorded, open_run
from guidebook.runs.run import opened as opened_run
from guidebook.sampling.draw import draw
from guidebook.training.loop import train

PAGE = (BOOK / "library.md").read_text()


@pytest.fixture(scope="module")
def mine(tmp_path_factory, shared, tiny):
    """A folder of runs with `mnist/demo`, a tiny one, sampled and measured at two scales, and a variant of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path_factory.mktemp("mine") / "runs")))
        run = open_run(
            load("mnist", "demo").replace(
                **tiny.model_dump(mode="json", include={"data", "model", "train", "sample", "evaluate"})
            )
        )
        variant = run.variant("dropout", train={"caption_dropout": 0.5})
        for each in (run, variant):
            train(each)
            for w in (1.0, 5.0):
                measure(each, draw(each, w, 30))
        yield run


@pytest.fixture
def opened(mine):
    return guidebook.open("mnist/demo")


def test_every_snippet_of_the_page_runs_in_order(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, snippets = {}, re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.S)
    assert len(snippets) == 8
    assert len(snippets[0][1].split("\n\n")[1].splitlines()) <= 5
    for kind, code in snippets:
        if kind == "sh":
            done = CliRunner().invoke(app, shlex.split(code)[1:], catch_exceptions=False)
            assert done.exit_code == 0
        else:
            exec(code, names)
    assert [image.size for image in names["images"]] == [(8, 8)] * 4
    with Image.open("sevens.png") as sheet:
        assert sheet.width > 1.9 * sheet.height  # four columns, two rows
    assert names["image"].size == (8, 8)
    assert len(names["shown"]) == 2


def test_of_captions_that_no_judge_reads_the_page_plots_what_was_measured(mine):
    plot = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "errorbar" in code)
    for gone, drawn in ((), "fd_judge"), (GROUPS["judge"].metrics, "fd_random"):
        frame = guidebook.open(mine.path).records()
        blind = frame[frame.metric == "fd_judge"].assign(metric="fd_random")
        kept = pd.concat([frame[~frame.metric.isin(gone)], blind])
        names = {"records": kept, "run": mine}
        exec(plot, names)
        assert set(names["shown"].metric) == {drawn}
        # Every set that was measured of the run with guidance, that of the page's prompt among them
        assert len(names["shown"]) == sum(kept.metric.eq(drawn) & kept.run.eq(mine.name) & kept.guidance.notna()) > 1
    assert 'of theirs plot `"fd_random"`' in PAGE


def test_the_seed_of_an_image_is_its_number_in_the_study(mine, opened):
    study = draw(mine, 5.0, 30).pixels.astype(int)
    again = opened.sample([f"A handwritten digit {i % 10}" for i in (7, 12)], guidance=5, seed=[7, 12])
    assert np.abs(np.stack([np.asarray(image, int) for image in again]) - study[[7, 12], 0]).max() <= 1
    assert np.abs(study[7] - study[12]).max() > 1


def test_values_broadcast_row_by_row(opened):
    grid = opened.sample("A handwritten digit 7", guidance=[[1], [5]], seed=range(3))
    one = opened.sample("A handwritten digit 7", guidance=5, seed=1)
    assert (len(grid), len(one)) == (6, 1)
    assert np.abs(np.asarray(grid[4], int) - np.asarray(one[0], int)).max() <= 1
    assert np.asarray(grid[1]).tolist() != np.asarray(grid[4]).tolist()
    assert Image.open(io.BytesIO(grid._repr_png_())).size == grid.sheet().size
    with pytest.raises(ValueError, match="broadcast"):
        opened.sample("A handwritten digit 7", guidance=[1, 5], seed=range(3))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"prompt": "A handwritten, zebra"}, "^the run's captions have no ',', zebra, but 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, a, digit, handwritten$"),
     ({"seed": -1}, "seed = -1: it is a whole number from 0"), ({"seed": 0.5}, "seed = 0.5: it is"), ({"seed": 2**32}, "it is a whole"),
     ({"guidance": float("nan")}, "guidance: w = nan: Input should be a finite number"), ({"guidance": -1}, "w = -1")],
)  # fmt: skip
def test_what_means_nothing_is_refused_in_one_line(opened, given, said):
    with pytest.raises((ValueError, ParamsError), match=said):
        opened.sample(**{"prompt": "A handwritten digit 7"} | given)


def test_records_are_a_frame_of_the_run_and_its_variants(mine, opened):
    frame = opened.records()
    assert len(frame) == len(mine.metrics()) + len(opened.variants["dropout"].run.metrics())
    assert set(frame.run) == {"mnist/demo", "mnist/demo · dropout"}
    assert {"metric", "value", "low", "high", "n", "guidance", "sampler", "steps", "way", "prompt", "extractor"} <= set(
        frame.columns
    )
    (one,) = frame[(frame.metric == "adherence") & (frame.run == "mnist/demo") & (frame.guidance == 5)].to_dict(
        "records"
    )
    (record,) = mine.metrics(metric="adherence", guidance=5.0)
    assert (one["value"], one["low"], one["way"]) == (record["value"], record["low"], "linear")


def test_a_run_is_opened_by_its_folder_too_and_says_what_it_is(mine):
    for name in (mine.path, str(mine.path)):
        assert guidebook.open(name).path == mine.path
    assert repr(guidebook.open(mine.path)) == f"<mnist/demo: {mine.path}>"


def test_a_record_has_numbers_and_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path))
    record = guidebook.open("mnist/paper")
    assert "a record without weights" in repr(record)
    assert (record.records().metric == "adherence").any()
    with pytest.raises(
        NotRecorded, match=r"is not in the record of mnist/paper; run `guidebook run mnist --profile paper`"
    ):
        record.sample("A handwritten digit 7")


def test_a_record_says_that_it_keeps_fewer_images_than_were_drawn(caplog, monkeypatch):
    run = opened_run(RESULTS / "cifar10" / "paper")
    n, (w, *_) = run.params.evaluate.samples, run.params.sample.guidance
    assert len(draw(run, w, n).pixels) < n
    assert caplog.messages == [f"the record of cifar10/paper keeps the first 100 of these {n} images"]
    monkeypatch.setenv("GUIDEBOOK_RECORD", str(run.path))
    draw(run, w, n)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("mnist/smoke", "no run of mnist/smoke is trained yet: guidebook run mnist --profile smoke"),
     ("mnsit/demo", "experiment 'mnsit' is not known .nearest: mnist."), ("mnist/dmeo", "profile 'dmeo' is not known .nearest: demo."),
     ("/nowhere/demo", "./nowhere/demo. is no folder of a run"), ("mnist", "'mnist' is no folder of a run: write EXPERIMENT/PROFILE, as mnist/demo")],
)  # fmt: skip
def test_a_run_that_there_is_not_says_what_to_do(runs, name, said):
    with pytest.raises(ParamsError, match=said):
        guidebook.open(name)


def test_a_run_that_is_not_trained_to_its_end_is_not_opened(runs, tiny):
    with pytest.raises(ParamsError, match="is not trained to its end: run it again"):
        guidebook.open(open_run(tiny).path)


def test_the_import_and_a_record_need_no_torch():
    """Nor numpy or pydantic, for the import; it takes milliseconds."""
    code = """
import sys, time
started = time.perf_counter()
import guidebook
took = time.perf_counter() - started
assert not {"torch", "numpy", "pydantic", "pandas", "PIL"} & set(sys.modules), sorted(sys.modules)
assert took < 0.1, took
assert len(guidebook.open("mnist/paper").records()) > 10
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)

"""Notebooks: executed to their last cell or not at all, each stage once, redrawn from a record, and deaf to hostile text."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from forks import forked_kernels
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from guidebook.book.captions import SAMPLES
from guidebook.book.notebook import NotebookFailed, execute, missing, run_experiment
from guidebook.config.params import load
from guidebook.config.paths import NOTEBOOKS
from guidebook.runs.recording import record
from guidebook.runs.run import opened

HOSTILE = "</script><script>alert(1)</script> {label}"  # the caption of every image below
FIELDS = {
    "metric", "value", "low", "high", "n", "guidance", "draw", "extractor", "reference",
}  # fmt: skip
EXPERIMENT = NOTEBOOKS / "mnist.ipynb"


def guidebook_run(runs, *settings) -> str:
    """`guidebook run` of the smoke profile; what it printed."""
    command = [Path(sys.executable).with_name("guidebook"), "run", "mnist", "--profile", "smoke"]
    command += [word for s in (f"data.caption='{HOSTILE}'", "text.tokens=77", *settings) for word in ("--set", s)]
    environment = os.environ | {"GUIDEBOOK_RUNS": str(runs)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, shared):
    """The MNIST notebook, run once by the command line at its smallest."""
    runs = shared(tmp_path_factory.mktemp("smoke"))
    assert ": done, " in guidebook_run(runs)
    return opened(next(runs.glob("mnist/smoke-*")))


@pytest.fixture(scope="module")
def redrawn(smoke, tmp_path_factory):
    """(the record of that run, the page redrawn from it) where there are no runs, no weights and no data."""
    place = tmp_path_factory.mktemp("redrawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guidebook.runs.run.RESULTS", place / "results")
        kept = record(smoke)
        recorded = opened(kept)
        (place / "site").mkdir()
        (place / "site" / "sitecustomize.py").write_text("import sys; sys.modules['sklearn.datasets'] = None")
        patch.setenv("PYTHONPATH", str(place / "site"))
        patch.setenv("GUIDEBOOK_RUNS", str(place / "runs"))
        before = stamps(kept)
        page = place / "page.ipynb"
        assert execute(EXPERIMENT, page, smoke.params.model_dump(mode="json"), record=kept)
        assert stamps(kept) == before
        assert not (place / "runs").exists()
    return recorded, page


def stamps(folder) -> dict:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


def outputs(path) -> list[dict]:
    cells = json.loads(Path(path).read_text())["cells"]
    return [o.get("data", {}) for c in cells if c["cell_type"] == "code" for o in c["outputs"]]


def pictures(path) -> int:
    return sum("image/png" in data or SAMPLES in "".join(data.get("text/html", "")) for data in outputs(path))


def shown(path) -> str:
    """All that a page takes over without escaping it: HTML, Markdown, LaTeX, scripts, and the state of widgets."""
    plain = {"text/plain", "image/png"}
    kept = [v for data in outputs(path) for k, v in data.items() if k not in plain]
    return json.dumps([kept, json.loads(Path(path).read_text())["metadata"].get("widgets", {})])


def notebook(path, *cells: str) -> Path:
    nb = new_notebook(cells=[new_code_cell(c) for c in cells])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, path)
    return path


# The experiment's notebook


def test_the_notebook_reaches_its_last_cell(smoke):
    assert missing(smoke.path / "notebook.ipynb") == []
    assert not (smoke.path / "notebook.partial.ipynb").exists()
    figures = [
        c
        for c in nbformat.read(EXPERIMENT, 4).cells
        if c.cell_type == "code" and re.search(r"\b(figures|charts)\.", c.source)
    ]
    assert pictures(smoke.path / "notebook.ipynb") == len(figures)


def test_every_metric_record_says_how_it_was_made_and_how_far_to_trust_it(smoke):
    for run in (smoke, opened(next(smoke.path.glob("variants/caption-dropout-????????")))):
        records = run.metrics()
        drawn = {(r["metric"], r["guidance"]) for r in records if r["guidance"] is not None}
        assert drawn == {
            (m, w) for m in ("adherence", "confidence", "fd_judge", "diversity", "grain") for w in (0, 1, 5)
        }
        for r in records:
            assert r.keys() >= FIELDS
            assert r["low"] <= r["value"] <= r["high"]
            assert r["extractor"]
            if r["guidance"] is not None:
                draw, solver = r["draw"], r["draw"]["solver"]
                assert (r["n"], draw["weights"], draw["seed"]) == (50, "ema-0.9", 422)
                assert (solver["sampler"], solver["steps"]) == ("ddpm", 3)


def test_a_new_guidance_scale_draws_its_samples_and_makes_nothing_else_again(smoke, monkeypatch):
    def made():
        return {k: v for k, v in stamps(smoke.path).items() if k.split("/")[-1] not in CHANGING}

    CHANGING = {"notebook.ipynb", "metrics.json", "params.yml", ".lock"}
    judges = smoke.path.parents[1] / "judges"
    before, rows, trained = made(), len(smoke.metrics()), stamps(judges)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(smoke.path.parents[1]))
    with forked_kernels():
        _, done = run_experiment(smoke.params.replace(sample={"guidance": [0, 1, 2, 5]}))
    assert done
    after, later = made(), stamps(judges)
    assert {k: after.get(k) for k in before} == before
    assert {k: later.get(k) for k in trained} == trained
    new = {k.split("/")[-2].split("-")[0] for k in after.keys() - before.keys()}
    assert new == {"w2"}
    # of the run and of its variant: images, their description, a sheet, the manifest
    assert len(after) == len(before) + 2 * 4
    assert [r["guidance"] for r in smoke.metrics()[rows:]] == [2.0] * 5
    # the same words once more: nothing
    started, untouched = time.monotonic(), stamps(smoke.path)
    assert ": nothing to do, " in guidebook_run(smoke.path.parents[1], "sample.guidance=[0, 1, 2, 5]")
    untouched.pop("params.yml")
    assert {k: v for k, v in stamps(smoke.path).items() if k != "params.yml"} == untouched
    assert time.monotonic() - started < 15


def test_a_record_redraws_the_whole_page_without_runs_weights_or_data(redrawn, smoke):
    kept, page = redrawn
    assert kept.recorded
    assert missing(page) == []
    assert pictures(page) == pictures(smoke.path / "notebook.ipynb")


def test_a_redrawn_page_shows_the_same_numbers(redrawn, smoke):
    def tables(path):
        return [data["text/html"] for data in outputs(path) if 'class="table"' in "".join(data.get("text/html", ""))]

    _, page = redrawn
    live = smoke.path / "notebook.ipynb"
    if len(smoke.metrics(metric="grain")) == 4:  # before another scale was added to the live run
        assert tables(page) == tables(live)
    assert len(tables(page)) == 3  # two of metrics, one of answers


def test_hostile_captions_reach_no_page_as_markup(smoke, redrawn):
    for page in (smoke.path / "notebook.ipynb", redrawn[1]):
        text = shown(page).lower()
        assert "<script>alert" not in text
        assert "</script>" not in text


# Notebooks that do not reach their end

BROKEN = {
    "a cell that raises": ("1 / 0", r"broken\.ipynb, cell 2: ZeroDivisionError: division by zero"),
    "a kernel that dies": ("import os; os._exit(1)", r"broken\.ipynb"),
    "a kernel that is killed": ("import os; os.kill(os.getpid(), 9)", r"broken\.ipynb"),
    "an early exit": ("import sys; sys.exit(0)", r"broken\.ipynb"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_notebook_that_stops_early_fails_and_leaves_no_page(case, tmp_path):
    code, said = BROKEN[case]
    source = notebook(tmp_path / "broken.ipynb", "x = 1", code, "print('the end')")
    with pytest.raises(NotebookFailed, match=said):
        execute(source, tmp_path / "out" / "notebook.ipynb", {})
    assert not (tmp_path / "out" / "notebook.ipynb").exists()


@pytest.mark.parametrize(("code", "stays"), [("raise DataError('no images')", False), ("1 / 0", True)])
def test_a_refusal_that_says_what_to_do_leaves_no_half_of_a_notebook(code, stays, tmp_path):
    source = notebook(tmp_path / "broken.ipynb", "from guidebook.config.datasets import DataError", code)
    with pytest.raises(NotebookFailed) as failed:
        execute(source, tmp_path / "notebook.ipynb", {})
    assert (len(str(failed.value).splitlines()) == 2) == stays
    assert (tmp_path / "notebook.partial.ipynb").exists() == stays


def test_a_notebook_that_fails_now_is_not_done_because_it_once_was(tmp_path):
    source, target = notebook(tmp_path / "broken.ipynb", "x = 1"), tmp_path / "notebook.ipynb"
    assert execute(source, target, {})
    notebook(source, "1 / 0")
    for _ in range(2):
        with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
            execute(source, target, {})


def test_a_whole_notebook_is_executed_once_and_again_when_it_changes(tmp_path):
    source, target = notebook(tmp_path / "good.ipynb", "x = 1", "print(x)"), tmp_path / "notebook.ipynb"
    assert execute(source, target, {}) is True
    before = target.read_bytes()
    assert execute(source, target, {}) is False
    assert target.read_bytes() == before
    notebook(source, "x = 2", "print(x)")
    assert execute(source, target, {}) is True
    assert "2" in target.read_text()


def test_a_page_is_drawn_again_when_its_record_changes_and_only_then(tmp_path):
    source, target = (
        notebook(tmp_path / "good.ipynb", "import os; os.environ['GUIDEBOOK_RECORD']"),
        tmp_path / "page.ipynb",
    )
    (tmp_path / "record").mkdir()
    for metrics in ("[]", "[1]"):
        (tmp_path / "record" / "metrics.json").write_text(metrics)
        assert execute(source, target, {}, record=tmp_path / "record") is True
        assert execute(source, target, {}, record=tmp_path / "record") is False
    assert str(tmp_path / "record") in outputs(target)[0]["text/plain"][0]
    assert "GUIDEBOOK_RECORD" not in os.environ


@pytest.mark.parametrize("name", ["metrics.json", "variants/x-01234567/metrics.json"])
def test_a_notebook_copied_to_another_run_of_the_same_parameters_is_executed_again(name, tmp_path):
    source = notebook(tmp_path / "good.ipynb", "x = 1")
    for folder in ("mine", "yours"):
        (tmp_path / folder / name).parent.mkdir(parents=True)
        (tmp_path / folder / name).write_text(folder)
    mine, yours = (tmp_path / folder / "notebook.ipynb" for folder in ("mine", "yours"))
    assert execute(source, mine, {}) is True
    shutil.copy(mine, yours)
    assert execute(source, yours, {}) is True
    assert execute(source, mine, {}) is False


def test_a_page_whose_last_cell_is_missing_is_not_complete(tmp_path):
    cells = [new_code_cell("1", execution_count=1, metadata={"papermill": {"status": "completed"}}) for _ in range(2)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert missing(tmp_path / "a.ipynb") == []
    cells[1].execution_count = None  # what papermill leaves of a dead kernel
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert missing(tmp_path / "a.ipynb") == [1]
    assert missing(tmp_path / "none.ipynb") == [0]


def test_papermill_alone_with_bad_parameters_fails_at_once_with_one_line(tmp_path):
    bad = load("mnist", "smoke").model_dump(mode="json") | {"trian": {"lr": 1.0}}
    target = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(EXPERIMENT, target, bad, kernel_name="python3", progress_bar=False, cwd=tmp_path)
    assert caught.value.ename == "ParamsError"
    assert caught.value.evalue.startswith("notebook: trian is not a parameter (nearest: train)")
    assert len(caught.value.evalue.splitlines()) == 1
    run = [c for c in nbformat.read(target, 4).cells if c.cell_type == "code" and c.execution_count]
    assert "from_notebook" in run[-1].source
    assert not any("guidebook.runs.run" in c.source for c in run)

"""Every experiment's notebook at its smallest: to its last cell, answering its claims, and drawn again from its record."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from forks import forked_kernels

from guidebook.book.captions import SAMPLES
from guidebook.book.notebook import execute, missing, run_experiment
from guidebook.config.params import load
from guidebook.config.paths import NOTEBOOKS
from guidebook.report.claims import answers, every
from guidebook.report.performance import read
from guidebook.runs.recording import record
from guidebook.runs.run import opened

# mnist has tests of its own
EXPERIMENTS = [
    "cifar10",
    "samplers",
    "wikiart",
    "celeba",
    "imagenet100",
    "grain",
    "sweep",
    "choices",
    "ema",
    "flows",
    "backbones",
    "latents",
    "stable-diffusion",
]


@pytest.fixture(scope="module", autouse=True)
def forked():
    with forked_kernels():
        yield


@pytest.fixture(scope="module", params=EXPERIMENTS)
def smoke(request, tmp_path_factory, shared):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path_factory.mktemp(request.param))))
        run, done = run_experiment(load(request.param, "smoke"))
    assert done
    return run


def html(path) -> list[str]:
    cells = json.loads(Path(path).read_text())["cells"]
    found = [o.get("data", {}).get("text/html", "") for c in cells for o in c.get("outputs", [])]
    return ["".join(text) for text in found if text]


def pictures(path) -> int:
    """Charts, and samples, which are HTML."""
    outputs = [o for c in json.loads(Path(path).read_text())["cells"] for o in c.get("outputs", [])]
    shown = [o.get("data", {}) for o in outputs]
    return sum("image/png" in data or SAMPLES in "".join(data.get("text/html", "")) for data in shown)


def test_it_reaches_its_last_cell_with_a_picture_in_every_cell_that_draws(smoke):
    page, source = smoke.path / "notebook.ipynb", NOTEBOOKS / f"{smoke.params.experiment}.ipynb"
    assert missing(page) == []
    measured = r"|page\.speeds" if read("loader") else ""  # where nothing was measured yet, a line says so
    drawing = [
        c
        for c in nbformat.read(source, 4).cells
        if c.cell_type == "code" and re.search(rf"((figures|charts)\.\w+{measured})\(", c.source)
    ]
    assert pictures(page) == len(drawing) > 5


def test_it_answers_every_claim_that_is_its_own(smoke):
    given = answers(smoke.path / "notebook.ipynb")
    source = (NOTEBOOKS / f"{smoke.params.experiment}.ipynb").read_text()
    own = {c.id for c in every().values() if re.search(rf'\\"{c.id}\\"', source)}
    assert {a.claim for a in given} == own
    assert len(given) == len(own) > 0
    assert all(a.found and a.verdict for a in given)


def test_every_number_has_its_interval_its_count_and_its_method(smoke):
    for run in (smoke, *(opened(p) for p in smoke.path.glob("variants/*") if (p / "metrics.json").exists())):
        for r in run.metrics():
            assert r["low"] <= r["value"] <= r["high"]
            assert r["n"] > 0
            assert r["interval"]
            assert r["extractor"]


def test_its_record_draws_the_same_page_and_computes_nothing(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr("guidebook.runs.run.RESULTS", tmp_path / "results")
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "runs"))
    kept, page = record(smoke), tmp_path / "page.ipynb"
    source = NOTEBOOKS / f"{smoke.params.experiment}.ipynb"
    assert execute(source, page, smoke.params.model_dump(mode="json"), record=kept)
    assert html(page) == html(smoke.path / "notebook.ipynb")
    assert pictures(page) == pictures(smoke.path / "notebook.ipynb")
    assert not (tmp_path / "runs").exists()


def test_the_page_on_performance_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "runs"))
    assert execute(NOTEBOOKS / "performance.ipynb", tmp_path / "page.ipynb", {})
    assert missing(tmp_path / "page.ipynb") == []


def test_the_page_on_foundations_reaches_its_end_with_a_network_that_has_hardly_learnt(tmp_path):
    source, page = tmp_path / "foundations.ipynb", tmp_path / "page.ipynb"
    text = (NOTEBOOKS / "foundations.ipynb").read_text()
    assert "range(1000)" in text
    assert '"n = 200' in text
    source.write_text(text.replace("range(1000)", "range(20)").replace('"n = 200', '"n = 40'))
    assert execute(source, page, {})
    assert missing(page) == []
    assert pictures(page) == len(re.findall(r"figures\.\w+\(", text)) == 6
    cells = json.loads(page.read_text())["cells"]
    said = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    assert [float(x) for x in re.findall(r"largest difference: (\S+)", said)] == pytest.approx([0, 0], abs=1e-5)

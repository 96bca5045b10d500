"""No page of a notebook that did not reach its last cell, whatever ended it: by the command itself, with real kernels."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.study import Study, children, ended, gone, named, seen, study
from guidebook.book.notebook import missing
from guidebook.config.params import ParamsError
from guidebook.runs.lock import held
from guidebook.runs.run import find

SLEEP = "open(run.path / 'ready', 'w').close(); time.sleep(600)"
FAULTS = {
    "the kernel ends itself with status 3": ("os._exit(3)", "tiny.ipynb: Kernel died"),
    "the kernel is killed": (SLEEP, "tiny.ipynb: Kernel died"),
    "a cell that ends the interpreter with status 0": (
        "raise SystemExit(0)",
        "tiny.ipynb stopped before its end: cells [",
    ),
    "a cell that raises": ("1 / 0", "tiny.ipynb, cell 5: ZeroDivisionError: division by zero"),
    "a cell without end is interrupted": (SLEEP, "interrupted"),
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "raw" / "diffusion_pytorch_model.safetensors")


def same(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return len(x) > 100 and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def fails(here: Study, name: str) -> None:
    """Runs the study with a fault: non-zero, one message, no page, no process left, and nothing of it in the book."""
    code, said = FAULTS[name]
    process = here.start("run", "tiny", fault=code)
    if code == SLEEP:
        until = time.monotonic() + 120
        while not list(here.runs.glob("tiny/demo-*/ready")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        (kernel,) = named(children(process.pid), "ipykernel")
        killed = name == "the kernel is killed"
        os.kill(kernel if killed else process.pid, signal.SIGKILL if killed else signal.SIGINT)
        while not killed and not (here.folder / "STOP").exists():  # the first one asks, the second one interrupts
            time.sleep(0.01)
        if not killed:
            os.kill(process.pid, signal.SIGINT)
    own = children(process.pid)
    status, text = ended(process)
    assert status not in (0, 75), text
    assert text.count("guidebook: ") == 1, text
    text = text.removeprefix("\nstopping when what was done is saved; Ctrl-C again stops at once\n")
    assert text.startswith("guidebook: "), text
    assert said in text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 2  # the second one says where to read on
    assert gone(own, 10)
    assert not here.page.exists()
    with pytest.raises(ParamsError, match="experiment 'tiny' is not known"):
        find("tiny", "demo")  # so no page is drawn from it


def completes(here: Study) -> None:
    status, text = here.run()
    assert status == 0, text
    assert missing(here.page) == []
    assert not here.page.with_suffix(".partial.ipynb").exists()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Study:
    found = study(tmp_path / "study")
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(found.runs))
    return found


def test_a_notebook_whose_kernel_dies_has_no_page(here):
    fails(here, "the kernel ends itself with status 3")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_notebook_that_stops_early_has_no_page_whatever_stopped_it(here, tally):
    for name in FAULTS:
        fails(here, name)
        (here.folder / "ready").unlink(missing_ok=True)
    completes(here)
    assert find("tiny", "demo").path == here.folder
    page = here.page.read_bytes()
    source = here.root / "notebooks" / "tiny.ipynb"  # another text: the page is out of date
    source.write_text(source.read_text().replace("# Tiny: a study", "# Tiny: a changed study"))
    status, text = here.run(fault="os._exit(3)")
    assert status == 1, text
    assert here.page.read_bytes() == page  # the earlier page stays
    completes(here)
    assert "changed study" in here.page.read_text()
    tally(7, "a kernel that dies, a cell that ends or raises or hangs", len(FAULTS) + 1, len(FAULTS) + 1,
        "non-zero exit, one message, no page; the next run completes",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_book_has_no_page_for_a_notebook_that_stopped_early(here):
    fails(here, "a cell that ends the interpreter with status 0")
    status, text = ended(here.start("build"))
    assert status == 0, text
    assert not list((here.root / "book" / "_build" / "html").rglob("tiny*.html"))
    completes(here)
    status, text = ended(here.start("build"))
    assert status == 0, text
    assert list((here.root / "book" / "_build" / "html").rglob("tiny*.html"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_signals_to_the_command_that_runs_a_notebook(tmp_path, tally):
    """Either stops it at a step, with status 75; it goes on from there to the weights of an unbroken run."""
    here, whole = study(tmp_path / "a", steps=120), study(tmp_path / "b", steps=120)
    stops = []
    for number, steps in ((signal.SIGUSR1, 3), (signal.SIGTERM, 9), (signal.SIGINT, 15)):
        process = here.start("run", "tiny")
        here.begins(process, steps)
        own = children(process.pid)
        assert named(own, "ipykernel")
        process.send_signal(number)
        status, text = ended(process)
        assert status == 75, text
        assert gone(own, 30)
        assert not here.page.exists()
        assert not held(here.folder)
        assert text.splitlines()[-1] == (
            f"guidebook: stopped training after {seen(here.folder):,} images, saved; run again to go on"
        )
        assert not here.page.with_suffix(".partial.ipynb").exists()
        stops.append(seen(here.folder))
    completes(here)
    status, text = ended(whole.start("train", str(whole.root / "params" / "tiny" / "demo.yml")))
    assert status == 0, text
    assert same(here.folder, whole.folder)
    stretches = json.loads((here.folder / "provenance.json").read_text())["stretches"]
    assert [s["from"] for s in stretches] == [0, *stops]
    tally(2, "SIGUSR1, SIGTERM and Ctrl-C to `guidebook run`", 3, 3, "exit status 75; weights equal bit for bit")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_whose_notebook_was_killed_stop_by_themselves(tmp_path, tally):
    here, whole = study(tmp_path / "a", steps=120, processes=2), study(tmp_path / "b", steps=120, processes=2)
    process = here.start("run", "tiny")
    here.begins(process, 3)
    own = children(process.pid)
    (kernel,), workers = named(own, "ipykernel"), named(own, "guidebook.runs.launch")
    assert len(workers) == 2
    assert held(here.folder)
    os.kill(kernel, signal.SIGKILL)
    killed = time.monotonic()
    status, text = ended(process)
    assert status == 1, text
    assert "tiny.ipynb: Kernel died" in text
    assert gone(workers, 30)
    seconds = time.monotonic() - killed
    assert not held(here.folder)
    assert not (here.folder / "lock.json").exists()
    assert not here.page.exists()
    reached = seen(here.folder)
    assert 0 < reached < 120 * 16
    completes(here)
    status, text = ended(whole.start("train", str(whole.root / "params" / "tiny" / "demo.yml")))
    assert status == 0, text
    assert same(here.folder, whole.folder)
    stretches = json.loads((here.folder / "provenance.json").read_text())["stretches"]
    assert [(s["from"], s["processes"]) for s in stretches] == [(0, 2), (reached, 2)]
    tally(7, "the kernel of two processes killed while they train", 1, 1,
        f"both gone within {seconds:.1f} s, saved, the lock released; weights equal bit for bit",
    )  # fmt: skip

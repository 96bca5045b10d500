"""What all tests share: no network, an own runs folder, and parameters small enough to train in a second."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from forks import PROCESSES

TALLY = pytest.StashKey()

# Before anything imports the hub's client; subprocesses and kernels inherit it.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
MODULES = tempfile.TemporaryDirectory()  # where diffusers copies the code of exported pipelines to
os.environ["HF_MODULES_CACHE"] = MODULES.name
for name in ("GUIDEBOOK_RUNS", "GUIDEBOOK_RECORD", "GUIDEBOOK_DATA", "GUIDEBOOK_ROOT"):
    os.environ.pop(name, None)


@pytest.fixture
def forked(monkeypatch):
    """Processes of the benches from there too, which in a bench begin anew."""
    monkeypatch.setattr("bench.apart.PROCESSES", PROCESSES)


@pytest.fixture(autouse=True)
def figures_closed():
    """No test leaves a figure open: pyplot keeps each until it is closed, and warns of the twenty-first."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty folder of runs, and one of records, instead of the checkout's."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder))
    monkeypatch.setattr("guidebook.runs.run.RESULTS", tmp_path / "results")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Makes a folder of runs keep what many runs read where all tests of this session, in every worker, find it: each judge and each
    autoencoder is trained once, captions are encoded and images read once. Or some kinds of it alone."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def share(runs: Path, kinds: Sequence[str] = ("atlas", "data", "features", "judges", "vaes")) -> Path:
        runs.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            (base / kind).mkdir(exist_ok=True)
            (runs / kind).symlink_to(base / kind)
        return runs

    return share


@pytest.fixture(scope="session")
def tiny():
    """Params of eight steps of training on 64 digits, with a checkpoint after the fourth and the eighth."""
    from guidebook.config.params import load

    smoke = load("mnist", "smoke")
    return smoke.replace(
        data={"limit": 64},
        train={"batch": 16, "epochs": 2, "checkpoint_every": 1},
        sample={"steps": 2, "guidance": [1, 5]},
        evaluate={"samples": 30},
    )


@pytest.fixture(scope="session")
def trained_runs(tiny, tmp_path_factory) -> Path:
    """A folder of runs with one, of `tiny`, that is trained: for copies."""
    from guidebook.runs.run import open_run
    from guidebook.training.loop import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp("trained")))
        run = open_run(tiny)
        train(run)
    return run.path.parents[1]


@pytest.fixture
def trained_run(trained_runs, runs, tiny):
    """The trained run of `tiny`, in the test's own folder of runs."""
    from guidebook.runs.run import open_run

    shutil.copytree(trained_runs, runs, dirs_exist_ok=True)
    return open_run(tiny)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores: tests wait for disks and other processes, so that two use little more than one core."""
    return len(os.sched_getaffinity(0)) + 1


# What the fault tests tried, for the book's page on reliability


@pytest.fixture
def tally(request):
    """`tally(promise, fault, tried, held, detail)`: a row of the table of faults; a fault that did not hold fails the test."""

    def note(promise: int, fault: str, tried: int, held: int, detail: str = "") -> None:
        assert tried > 0
        assert held == tried, f"{fault}: {tried - held} of {tried} did not hold; {detail}"
        rows = request.config.stash.setdefault(TALLY, [])
        rows.append({"promise": promise, "fault": fault, "tried": tried, "held": held, "detail": detail})

    return note


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """The rows of a worker that ends are its session's."""
    node.config.stash.setdefault(TALLY, []).extend(getattr(node, "workeroutput", {}).get("faults", []))


def pytest_sessionfinish(session, exitstatus):
    """Writes the rows to `$GUIDEBOOK_FAULTS` when every test passed."""
    rows, target = session.config.stash.get(TALLY, []), os.environ.get("GUIDEBOOK_FAULTS")
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = rows
        return
    if not (rows and target) or exitstatus:
        return
    import datetime

    import torch

    from guidebook.runs.run import commit, write

    made = {**commit(), "date": datetime.date.today().isoformat(), "torch": torch.__version__, "cores": os.cpu_count()}
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    write(Path(target), json.dumps({"made": made, "faults": rows}, indent=1, ensure_ascii=False) + "\n")

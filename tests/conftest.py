"""What all tests share: no network, an own runs folder, and parameters small enough to train in a second."""

import os

import pytest

# Before anything imports the hub's client; subprocesses and kernels inherit it.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
for name in ("GUIDEBOOK_RUNS", "GUIDEBOOK_RECORD", "GUIDEBOOK_DATA", "GUIDEBOOK_ROOT"):
    os.environ.pop(name, None)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty folder of runs, and one of records, instead of the checkout's."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder))
    monkeypatch.setattr("guidebook.run.RESULTS", tmp_path / "results")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Params of eight steps of training on 64 digits, with a checkpoint after the fourth and the eighth."""
    from guidebook.params import load

    smoke = load("mnist", "smoke")
    return smoke.replace(
        data={"limit": 64},
        train={"batch": 16, "epochs": 2, "checkpoint_every": 1},
        sample={"steps": 2, "guidance": [1, 5]},
        evaluate={"samples": 30, "bootstrap": 10},
    )

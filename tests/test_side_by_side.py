"""Trainings side by side: each as it is alone, and a stop or an error of one ends all where they can go on."""

import threading
import time

import psutil
import pytest
import torch

from guidebook import training
from guidebook.runs.launch import ProcessFailed
from guidebook.runs.preemption import Preempted
from guidebook.runs.run import open_run
from guidebook.training import checkpoint, loop, side_by_side


@pytest.fixture
def cores(monkeypatch):
    """Two threads in the process that asks for trainings, so that each of two has one, as all processes of the tests have."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    others = psutil.Process().children()  # of other tests: servers, browsers
    yield lambda: set(psutil.Process().children()) - set(others)
    torch.set_num_threads(before)


def of_seeds(tiny, n: int, **train) -> list:
    return [open_run(tiny.replace(train={"seed": seed} | train)) for seed in range(n)]


def weights(run) -> list[bytes]:
    return [file.read_bytes() for file in sorted(run.path.glob("model/**/*.safetensors"))]


def alone(runs, monkeypatch, folder) -> list[list[bytes]]:
    """The weights of the same trainings, one after another by one thread."""
    torch.set_num_threads(1)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder))
    again = [open_run(run.params) for run in runs]
    for run in again:
        loop.train(run)
    assert not {run.path for run in again} & {run.path for run in runs}
    return [weights(run) for run in again]


def test_each_is_trained_as_it_is_alone(tiny, runs, cores, monkeypatch, tmp_path):
    three = of_seeds(tiny, 3)
    training.train(*three)
    assert [run.provenance()["device"].partition(", ")[2] for run in three] == ["1 thread"] * 3
    assert all(run.provenance()["train_seconds"] > 0 for run in three)  # pages divide by it
    assert not cores()
    beside = [weights(run) for run in three]
    assert beside == alone(three, monkeypatch, tmp_path / "alone")
    assert len({tuple(of) for of in beside}) == 3


def test_those_that_are_stopped_go_on_as_if_they_had_not_been(tiny, runs, cores, monkeypatch, tmp_path):
    two = of_seeds(tiny, 2, epochs=60, checkpoint_every=60)

    def stop() -> None:
        while not all(run.stats() for run in two):
            time.sleep(0.02)
        (two[1].path / "STOP").touch()  # of the second: the first hears of it through the process that waits for both

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Preempted, match=r"stopped training after [\d,]+ images, saved; run again to go on"):
        training.train(*two)
    assert not cores()
    for run in two:
        assert checkpoint.complete(run.path / "checkpoints")
        assert not run.trained
        assert not (run.path / "STOP").exists()
    training.train(*two)
    assert [len(run.provenance()["stretches"]) for run in two] == [2, 2]
    assert [weights(run) for run in two] == alone(two, monkeypatch, tmp_path / "alone")


def test_an_error_of_one_is_told_and_ends_the_other_saved(tiny, runs, cores):
    two = of_seeds(tiny, 2, epochs=400, checkpoint_every=400)
    (two[1].path / "checkpoints" / "nimg-0000000016").mkdir(parents=True)
    (two[1].path / "checkpoints" / "nimg-0000000016" / "manifest.json").write_text("[]")
    with pytest.raises(
        ProcessFailed, match=r"^mnist/smoke, in a process of its own: Corrupt: nimg-0000000016: manifest\.json is not"
    ):
        training.train(*two)
    assert not cores()
    assert not two[0].trained
    assert not (two[0].path / "lock.json").exists()


def test_one_left_of_many_has_the_threads_it_would_have_had(tiny, runs, cores, monkeypatch):
    two, asked = of_seeds(tiny, 2), []
    loop.train(two[0])
    monkeypatch.setattr(side_by_side, "_beside", lambda *of: asked.append(of))
    training.train(*two)
    assert asked == [([two[1]], 2, 1)]
    training.train(two[0])
    training.train(two[0], two[0])
    assert len(asked) == 1


def test_a_stop_between_two_trainings_is_no_end(tiny, runs, cores, monkeypatch):
    """The processes have done what they were given, and none is told of the stop before the next."""
    four = of_seeds(tiny, 4)

    class Done:
        def __init__(self, *of):
            pass

        def give(self, job, of):
            (four[0].path / "STOP").touch()

        def take(self):
            while not self.told:
                time.sleep(0.01)

        told = False

        def leave(self):
            self.told = True

        close = leave

    monkeypatch.setattr(side_by_side, "Processes", Done)
    with pytest.raises(Preempted, match="stopped between two trainings, saved"):
        training.train(*four)
    assert not (four[0].path / "STOP").exists()


def test_memory_bounds_how_many_are_trained_at_a_time(tiny, runs, cores, monkeypatch):
    three = of_seeds(tiny, 3)
    torch.set_num_threads(8)
    found = []
    for gigabytes in (100, 2.5, 0.5):
        monkeypatch.setattr(side_by_side.os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": gigabytes * 1e9}.get)
        found.append(side_by_side._lanes(three))
    assert found == [3, 2, 1]


@pytest.mark.parametrize(("threads", "processes"), [(1, 1), (2, 2)])
def test_where_cores_are_taken_one_comes_after_the_other(tiny, runs, threads, processes, monkeypatch, cores):
    trained = []
    torch.set_num_threads(threads)
    monkeypatch.setattr(loop, "train", trained.append)
    two = of_seeds(tiny, 2, processes=processes)
    training.train(*two)
    assert trained == two

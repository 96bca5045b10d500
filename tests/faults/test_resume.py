"""A training that was interrupted is the training that was not: processes killed at chosen and at random moments."""

import itertools
import math
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guidebook import checkpoint, trainer, training
from guidebook.lock import lock
from guidebook.run import folder, open_run, opened
from guidebook.trainer import NonFiniteLoss

# A server that has imported what training needs and forks a process per training: real processes without the imports.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["guidebook.training"])
BATCH, EVERY, TOTAL = 16, 12 * 16, 44 * 16  # images of a step, between checkpoints, of the whole training
TIMING = {"images_per_s", "seconds", "memory_mb"}

# Where a process kills itself: a function, at which of its calls, and whether before it or after it.
BETWEEN = {
    "before the first checkpoint": ("guidebook.trainer.Trainer.step", 10, "before"),
    "after a line of statistics, before its checkpoint": ("guidebook.checkpoint.save", 1, "before"),
    "while the files of a checkpoint are written": ("guidebook.checkpoint.save_file", 2, "before"),
    "before a checkpoint's manifest": ("guidebook.checkpoint._sha256", 4, "after"),
    "before a checkpoint gets its name": ("guidebook.checkpoint._fsync", 6, "after"),
    "when a checkpoint has just got its name": ("guidebook.checkpoint._fsync", 7, "before"),
    "while the statistics are cut back to the checkpoint": ("pathlib.Path.write_text", "stats", "halfway"),
    "between two checkpoints": ("guidebook.trainer.Trainer.step", 18, "before"),
    "before the oldest checkpoint is removed": ("guidebook.checkpoint.shutil.rmtree", 3, "before"),
    "after the last step": ("guidebook.training._publish", 1, "before"),
    "with one of two models written": ("guidebook.training.UNet2DConditionModel.save_pretrained", 1, "after"),
}  # fmt: skip


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _patched(where: str, wrap):
    owner, _, name = where.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    setattr(owner, name, wrap(getattr(owner, name)))


def _deadly(where, which, when):
    def wrap(real):
        calls = itertools.count(1)

        def call(*args, **kwargs):
            if when == "halfway":  # the file is open and empty
                if which in args[0].name:
                    args[0].open("w")
                    _die()
                return real(*args, **kwargs)
            due = next(calls) == which
            if due and when == "before":
                _die()
            result = real(*args, **kwargs)
            if due:
                _die()
            return result

        return call

    _patched(where, wrap)


def _noted(steps: Path):
    """Writes down the images seen before every step, across all processes."""

    def wrap(real):
        def step(self):
            with open(steps, "a") as file:
                file.write(f"{os.getpid()} {self.nimg}\n")
            real(self)

        return step

    _patched("guidebook.trainer.Trainer.step", wrap)


def _other_order():
    """Other data from here on: the law below must notice."""
    _patched("guidebook.trainer.order", lambda real: lambda n, seed, start, count: real(n, seed, start + 1, count))


def _limited(size: int):
    """No file longer than this, as if the disk were full there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _child(params, runs, faults):
    os.environ["GUIDEBOOK_RUNS"] = str(runs)
    _noted(Path(runs) / "steps.txt")
    for fault, *arguments in faults:
        fault(*arguments)
    try:
        training.train(open_run(params))
    except Exception as error:
        (Path(runs) / "error.txt").write_text(f"{type(error).__name__}: {error}")
        raise


def started(params, runs, *faults):
    runs.mkdir(exist_ok=True)
    process = PROCESSES.Process(target=_child, args=(params, str(runs), faults))
    process.start()
    return process


def trained(params, runs, *faults) -> int:
    """Trains in a process of its own; its exit status, negative for a signal."""
    process = started(params, runs, *faults)
    process.join(120)
    return process.exitcode


def the_run(params, runs):
    return opened(runs / folder(params).relative_to(folder(params).parents[1]))


def checkpoints(params, runs) -> list[int]:
    return [int(p.name[5:]) for p in checkpoint.complete(the_run(params, runs).path / "checkpoints")]


def weights(run) -> dict[str, torch.Tensor]:
    """Every number of `model/` and of the newest checkpoint."""
    files = sorted(run.path.glob("model/*/*.safetensors"))
    newest = checkpoint.complete(run.path / "checkpoints")[-1]
    found = {f"{f.parent.name}/{k}": v for f in files for k, v in load_file(f).items()}
    tensors, _ = checkpoint.load(newest)
    return found | {f"{newest.name}/{g}/{k}": v for g, group in tensors.items() for k, v in group.items()}


def lines(run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in run.stats()]


def same_weights(a, b) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and len(x) > 100 and all(torch.equal(x[k], y[k]) for k in x)


def same_lines(a, b) -> bool:
    return lines(a) == lines(b) and len(lines(a)) == 6


@pytest.fixture(scope="module")
def params(tiny):
    """44 steps, with checkpoints after 12, 24 and 36, and statistics there and after every 20."""
    return tiny.replace(train={"epochs": TOTAL / 64, "checkpoint_every": EVERY / 64, "caption_dropout": 0.2})


@pytest.fixture(scope="module")
def unbroken(params, tmp_path_factory):
    runs = tmp_path_factory.mktemp("unbroken")
    assert trained(params, runs) == 0
    return the_run(params, runs)


@pytest.fixture(scope="module")
def interrupted(params, tmp_path_factory):
    """One training, killed at every moment of BETWEEN in turn and then left alone."""
    runs = tmp_path_factory.mktemp("interrupted")
    ends = {name: trained(params, runs, (_deadly, *moment)) for name, moment in BETWEEN.items()}
    assert ends == dict.fromkeys(BETWEEN, -signal.SIGKILL)
    assert trained(params, runs) == 0
    return the_run(params, runs)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def test_weights_after_interruptions_equal_those_without_bit_for_bit(interrupted, unbroken):
    assert same_weights(interrupted, unbroken)


def test_statistics_after_interruptions_equal_those_without_bit_for_bit(interrupted, unbroken):
    assert same_lines(interrupted, unbroken)


def test_no_more_than_one_checkpoint_interval_is_repeated(interrupted):
    rows = [line.split() for line in (interrupted.path.parents[1] / "steps.txt").read_text().splitlines()]
    lives = [[int(n) for _, n in life] for _, life in itertools.groupby(rows, key=lambda row: row[0])]
    assert len(lives) > 5
    for life in lives:
        assert life == list(range(life[0], life[-1] + BATCH, BATCH))
    reached = 0
    for life in lives:
        assert reached - EVERY <= life[0] <= reached
        reached = max(reached, life[-1] + BATCH)
    assert reached == TOTAL


def test_interruptions_leave_no_lock_and_no_model_half_written(interrupted):
    assert not (interrupted.path / "lock.json").exists()
    assert sorted(p.name for p in (interrupted.path / "model").iterdir()) == ["ema-0.9", "raw"]


def test_the_comparison_notices_another_order_of_the_data(params, unbroken, runs):
    assert trained(params, runs, (_deadly, "guidebook.trainer.Trainer.step", 20, "before")) == -signal.SIGKILL
    assert trained(params, runs, (_other_order,)) == 0
    changed = the_run(params, runs)
    assert not same_weights(changed, unbroken)
    assert not same_lines(changed, unbroken)
    assert lines(changed)[0] == lines(unbroken)[0]  # until the interruption all was the same


@pytest.fixture(scope="module")
def stopped(params, tmp_path_factory):
    """A training asked to stop, twice, by a file in its folder; then left alone."""
    runs = tmp_path_factory.mktemp("stopped")
    for steps in (1, 2):
        place = runs / folder(params).relative_to(folder(params).parents[1])
        place.mkdir(parents=True, exist_ok=True)
        (place / "STOP").touch()
        assert trained(params, runs) == 75
        assert checkpoints(params, runs) == [BATCH * n for n in range(1, steps + 1)]
        assert not (place / "STOP").exists()
        assert not (place / "model").exists()
    assert trained(params, runs) == 0
    return the_run(params, runs)


def test_a_training_asked_to_stop_saves_and_goes_on_to_equal_weights(stopped, unbroken):
    assert same_weights(stopped, unbroken)


def test_a_training_asked_to_stop_goes_on_to_equal_statistics(stopped, unbroken):
    assert same_lines(stopped, unbroken)


def test_a_full_disk_ends_the_training_keeps_the_checkpoint_and_with_space_it_goes_on(params, unbroken, runs):
    assert trained(params, runs, (_deadly, "guidebook.trainer.Trainer.step", 20, "before")) == -signal.SIGKILL
    assert trained(params, runs, (_limited, 1_000_000)) == 1
    assert f"OSError: nimg-{2 * EVERY:010d} was not written" in (runs / "error.txt").read_text()
    assert checkpoints(params, runs) == [EVERY]
    assert trained(params, runs) == 0
    assert same_weights(the_run(params, runs), unbroken)
    assert same_lines(the_run(params, runs), unbroken)


def test_a_corrupt_checkpoint_stops_the_run_and_deleting_it_is_enough(params, unbroken, runs):
    assert trained(params, runs, (_deadly, "guidebook.trainer.Trainer.step", 40, "before")) == -signal.SIGKILL
    newest = checkpoint.complete(the_run(params, runs).path / "checkpoints")[-1]
    raw = bytearray((newest / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (newest / "model.safetensors").write_bytes(raw)
    assert trained(params, runs) == 1
    assert f"{newest.name}: model.safetensors is not what was written" in (runs / "error.txt").read_text()
    shutil.rmtree(newest)
    assert trained(params, runs) == 0
    assert same_weights(the_run(params, runs), unbroken)


# In this process: what is raised, and that nothing is done twice


def nan_at(step: int, monkeypatch):
    real, calls = trainer.loss, itertools.count()
    monkeypatch.setattr(trainer, "loss", lambda *a: real(*a) * (math.nan if next(calls) == step else 1))


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_the_checkpoint(
    params, unbroken, runs, monkeypatch
):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    run = open_run(params)
    with monkeypatch.context() as patch:
        nan_at(25, patch)
        with pytest.raises(NonFiniteLoss, match=r"loss nan at step 25 \(400 images seen\)"):
            training.train(run)
    assert not (run.path / "model").exists()
    assert [p.name for p in checkpoint.complete(run.path / "checkpoints")] == ["nimg-0000000192", "nimg-0000000384"]
    assert all(t.isfinite().all() for t in weights(run).values())
    training.train(run)  # without the fault it goes on to the same end
    assert same_weights(run, unbroken)


@pytest.mark.parametrize("step", [12, 15], ids=["at a checkpoint", "at the end"])
def test_weights_that_are_not_finite_are_never_saved(params, runs, monkeypatch, step):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    run = open_run(params.replace(train={"epochs": 15 * BATCH / 64}))
    real, calls = trainer.Trainer.step, itertools.count(1)

    def spoilt(self):
        real(self)
        if next(calls) == step:
            self.weights[0].data.view(-1)[0] = math.inf

    monkeypatch.setattr(trainer.Trainer, "step", spoilt)
    with pytest.raises(NonFiniteLoss, match=f"after {step * BATCH:,} images"):
        training.train(run)
    assert not (run.path / "model").exists()
    assert all(int(p.name[5:]) < step * BATCH for p in checkpoint.complete(run.path / "checkpoints"))


def test_a_finished_training_is_found_and_not_touched(unbroken, monkeypatch):
    def files():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in unbroken.path.rglob("*")}

    before = files()
    monkeypatch.setattr(training, "Trainer", None)  # whoever trains needs one
    training.train(unbroken)
    assert files() == before


def test_a_training_that_is_going_on_elsewhere_is_not_joined(params, runs, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    with lock(open_run(params).path):
        assert trained(params, runs) == 1
    assert f"Locked: {folder(params).name} is in use by process {os.getpid()}" in (runs / "error.txt").read_text()
    assert not (runs / "steps.txt").exists()


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_nothing(params, tmp_path):
    long = params.replace(train={"epochs": 150, "checkpoint_every": 1})  # 600 steps, a checkpoint every 4
    assert trained(long, tmp_path / "unbroken") == 0
    rng, unfinished, kills = random.Random(0), 0, 0
    while kills < 30:
        process = started(long, tmp_path / "killed")
        process.join(rng.uniform(0.3, 2.5))
        if process.exitcode == 0:
            break
        process.kill()
        process.join()
        kills += 1
        unfinished += any((tmp_path / "killed").rglob(".writing-*"))
    assert trained(long, tmp_path / "killed") == 0
    a, b = the_run(long, tmp_path / "unbroken"), the_run(long, tmp_path / "killed")
    assert kills >= 15
    assert unfinished >= 1, "no kill fell into the writing of a checkpoint"
    assert lines(a) == lines(b)
    assert same_weights(a, b)

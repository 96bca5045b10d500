"""A training that was interrupted is the training that was not: processes killed at chosen and at random moments."""

import itertools
import math
import os
import random
import shutil
import signal
import socket
import statistics
import time

import pytest
import torch

from faults.lives import (
    BATCH,
    EPOCH,
    EVERY,
    PROCESSES,
    PROMISED,
    another_order,
    at,
    checkpoints,
    deadly,
    limited,
    lines,
    newest,
    notes,
    refused,
    said,
    same_lines,
    same_weights,
    started,
    the_run,
    trained,
    wait_for_steps,
    weights,
)
from guidebook.config.budget import kept_checkpoints
from guidebook.diffusion.objective import Objective
from guidebook.runs.lock import lock
from guidebook.runs.run import folder, open_run
from guidebook.training import checkpoint, loop
from guidebook.training.step import NonFiniteLoss, Trainer

KILLED = -signal.SIGKILL

# Where a process kills itself: a function, at which of its calls, and whether before it or after it.
BETWEEN = {
    "before the first checkpoint": ("guidebook.training.step.Trainer.step", 10, "before"),
    "after a line of statistics, before its checkpoint": ("guidebook.training.checkpoint.save", 1, "before"),
    "while the files of a checkpoint are written": ("guidebook.training.checkpoint.save_file", 2, "before"),
    "before a checkpoint's manifest": ("guidebook.runs.manifest._sha256", 4, "after"),
    "before a checkpoint gets its name": ("os.replace", f"nimg-{EVERY:010d}", "before"),
    "when a checkpoint has just got its name": ("os.replace", f"nimg-{EVERY:010d}", "after"),
    "while the statistics are cut back to the checkpoint": ("pathlib.Path.write_bytes", "stats.jsonl", "halfway"),
    "between two checkpoints": ("guidebook.training.step.Trainer.step", 18, "before"),
    "before the oldest checkpoint is removed": ("guidebook.training.checkpoint.shutil.rmtree", f"{EVERY:010d}", "before"),
    "after the last step": ("guidebook.training.loop.publish", 1, "before"),
    "with one of two models written": ("guidebook.models.unet.UNet.save_pretrained", 1, "after"),
}  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(short, tmp_path_factory):
    """One training, killed at every moment of BETWEEN in turn and then left alone; (the run, its lives)."""
    runs, lives, ends = tmp_path_factory.mktemp("interrupted"), {}, {}
    for name, moment in (BETWEEN | {"none": None}).items():
        before = newest(short, runs)
        process = started(short, runs, *([(deadly, *moment)] if moment else []))
        process.join(120)
        lives[process.pid], ends[name] = before, process.exitcode
    assert ends == dict.fromkeys(BETWEEN, KILLED) | {"none": 0}
    return the_run(short, runs), lives


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def repeated(runs, before: dict[int, int], batch: int) -> list[int]:
    """Images that each life saw again. `before` holds the newest checkpoint when it began, by process."""
    reached, again = 0, []
    for pid, steps in notes(runs, "step").items():
        seen = [nimg for nimg, _ in steps]
        assert seen == list(range(before[pid], seen[-1] + batch, batch))  # it begins there and leaves nothing out
        again.append(reached - seen[0])
        reached = max(reached, seen[-1] + batch)
    return again


def test_weights_after_interruptions_equal_those_without_bit_for_bit(interrupted, unbroken):
    assert same_weights(interrupted[0], unbroken)


def test_statistics_after_interruptions_equal_those_without_bit_for_bit(interrupted, unbroken):
    assert same_lines(interrupted[0], unbroken)


def test_every_life_begins_at_the_newest_complete_checkpoint_and_repeats_no_more_than_promised(interrupted):
    run, lives = interrupted
    again = repeated(run.path.parents[1], lives, BATCH)
    assert len(again) > 5
    assert max(again) <= PROMISED


def test_interruptions_leave_the_checkpoints_of_a_training_without_them(interrupted, unbroken):
    kept, others = (checkpoints(run.params, run.path.parents[1]) for run in (interrupted[0], unbroken))
    assert kept == others == kept_checkpoints(unbroken.params)


def test_interruptions_leave_no_lock_and_no_model_half_written(interrupted):
    path = interrupted[0].path
    assert not (path / "lock.json").exists()
    assert sorted(p.name for p in (path / "model").iterdir()) == ["ema-0.9", "raw"]
    assert not [*path.glob(".model-*"), *path.glob("checkpoints/.*")]


def with_checkpoints(params, runs, n: int):
    """A training killed as soon as its checkpoint number n is complete."""
    assert (
        trained(params, runs, (deadly, "guidebook.runs.manifest.rename", f"nimg-{EVERY * n:010d}", "after"))[0]
        == KILLED
    )
    assert checkpoints(params, runs) == [EVERY * i for i in range(1, n + 1)]


def test_the_comparison_notices_another_order_of_the_data(short, unbroken, runs):
    with_checkpoints(short, runs, 1)
    assert trained(short, runs, (another_order,))[0] == 0
    changed = the_run(short, runs)
    assert not same_weights(changed, unbroken)
    assert not same_lines(changed, unbroken)
    assert lines(changed)[0] == lines(unbroken)[0]  # until the interruption all was the same


@pytest.fixture(scope="module")
def stopped(short, tmp_path_factory):
    """A training asked to stop, twice, by a file in its folder; then left alone."""
    runs = tmp_path_factory.mktemp("stopped")
    for steps in (1, 2):
        place = at(short, runs)
        place.mkdir(parents=True, exist_ok=True)
        (place / "STOP").touch()
        status, text = trained(short, runs)
        assert status == 75
        assert text.splitlines()[-1].startswith(f"guidebook: stopped training after {BATCH * steps} images, saved")
        assert checkpoints(short, runs) == [BATCH * n for n in range(1, steps + 1)]
        assert not (place / "STOP").exists()
        assert not (place / "model").exists()
    assert trained(short, runs)[0] == 0
    return the_run(short, runs)


def test_a_training_asked_to_stop_saves_and_goes_on_to_equal_weights(stopped, unbroken):
    assert same_weights(stopped, unbroken)


def test_a_training_asked_to_stop_goes_on_to_equal_statistics(stopped, unbroken):
    assert same_lines(stopped, unbroken)


def test_the_record_says_where_every_life_began(stopped):
    assert [stretch["from"] for stretch in stopped.provenance()["stretches"]] == [0, BATCH, 2 * BATCH]


def test_a_file_too_large_ends_the_training_keeps_the_checkpoint_and_with_space_it_goes_on(short, unbroken, runs):
    with_checkpoints(short, runs, 1)
    assert f"nimg-{2 * EVERY:010d} was not written" in refused(trained(short, runs, (limited, 1_000_000)))
    assert checkpoints(short, runs) == [EVERY]
    assert trained(short, runs)[0] == 0
    assert same_weights(the_run(short, runs), unbroken)
    assert same_lines(the_run(short, runs), unbroken)


def test_a_corrupt_checkpoint_stops_the_run_and_deleting_it_is_enough(short, unbroken, runs):
    with_checkpoints(short, runs, 2)
    bad = checkpoint.complete(at(short, runs) / "checkpoints")[-1]
    raw = bytearray((bad / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (bad / "model.safetensors").write_bytes(raw)
    text = refused(trained(short, runs))
    assert f"{bad.name}: model.safetensors is not what was written; delete the folder {bad} and run again" in text
    assert checkpoints(short, runs) == [EVERY, 2 * EVERY]
    shutil.rmtree(bad)
    assert trained(short, runs)[0] == 0
    assert same_weights(the_run(short, runs), unbroken)


# In this process: what is raised, and that nothing is done twice


def nan_at(step: int, monkeypatch):
    real, calls = Objective.loss, itertools.count()

    def loss(*given):  # the validation loss has no gradient
        return real(*given) * (math.nan if torch.is_grad_enabled() and next(calls) == step else 1)

    monkeypatch.setattr(Objective, "loss", loss)


@pytest.fixture
def one_thread():
    """Sums in the order in which the processes of `lives` make them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_the_last_good_checkpoint(
    short, unbroken, tmp_path, monkeypatch, one_thread, tally
):
    steps = (5, 12, 25, 43)
    for step in steps:
        runs = tmp_path / str(step)
        monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
        run = open_run(short)
        with monkeypatch.context() as patch:
            nan_at(step, patch)
            with pytest.raises(NonFiniteLoss, match=rf"loss nan at step {step} \({step * BATCH} images seen\)"):
                loop.train(run)
        assert not (run.path / "model").exists()
        assert newest(short, runs) == step * BATCH // EVERY * EVERY
        if newest(short, runs):
            assert all(t.isfinite().all() for t in weights(run).values())
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "25"))
    loop.train(open_run(short))  # without the fault it goes on to the same end
    assert same_weights(open_run(short), unbroken)
    tally(5, "a loss that is NaN", len(steps), len(steps), "names the step; the last good checkpoint stays the newest")


@pytest.mark.parametrize("step", [12, 15], ids=["at a checkpoint", "at the end"])
def test_weights_that_are_not_finite_are_never_saved(short, runs, monkeypatch, step):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    run = open_run(short.replace(train={"epochs": 15 * BATCH / EPOCH}))
    real, calls = Trainer.step, itertools.count(1)

    def spoilt(self):
        real(self)
        if next(calls) == step:
            self.weights[0].data.view(-1)[0] = math.inf

    monkeypatch.setattr(Trainer, "step", spoilt)
    with pytest.raises(NonFiniteLoss, match=f"after {step * BATCH:,} images"):
        loop.train(run)
    assert not (run.path / "model").exists()
    assert all(int(p.name[5:]) < step * BATCH for p in checkpoint.complete(run.path / "checkpoints"))


def test_a_finished_training_is_found_and_not_touched(unbroken, monkeypatch):
    def files():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in unbroken.path.rglob("*")}

    before = files()
    monkeypatch.setattr(loop, "prepared", None)  # whoever trains needs one
    loop.train(unbroken)
    assert files() == before


def test_a_training_that_is_going_on_elsewhere_is_not_joined(short, runs, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    with lock(open_run(short).path):
        text = refused(trained(short, runs))
    assert f"{folder(short).name} is in use by process {os.getpid()}" in text
    assert not (runs / "notes.txt").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("races", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_of_eight_that_start_at_once_one_trains_and_seven_say_who_it_is(long, tmp_path, tally, races):
    for race in range(races):
        runs, together = tmp_path / f"runs-{race}", PROCESSES.Barrier(8)
        eight = [started(long, runs, together=together) for _ in range(8)]
        deadline = time.monotonic() + 120
        while sum(p.is_alive() for p in eight) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (winner,) = [p for p in eight if p.is_alive()]
        while not (runs / "notes.txt").exists():
            time.sleep(0.05)
        assert list(notes(runs, "step")) == [winner.pid]
        for process in eight:
            if process is not winner:
                line = refused((process.exitcode, said(runs, process)))
                assert f"is in use by process {winner.pid} on {socket.gethostname()}" in line
        (at(long, runs) / "STOP").touch()
        winner.join(60)
        assert winner.exitcode == 75
        assert list(notes(runs, "step")) == [winner.pid]
        assert not (at(long, runs) / "lock.json").exists()
    if races > 1:
        tally(6, "eight processes started at once on one run", races, races, "one trains; seven name it and exit 1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_random_moments_change_nothing(long, long_unbroken, tmp_path, tally):
    runs, rng, batch = tmp_path / "runs", random.Random(0), long.train.batch
    kills, writing, early, before = 0, 0, 0, {}
    while kills < 30 or (writing < 5 and kills < 60):
        was, process = newest(long, runs), started(long, runs)
        before[process.pid] = was
        wait_for_steps(runs, process, rng.randint(1, 14) if rng.random() < 0.9 else 0)
        process.join(rng.uniform(0, 0.1))
        assert process.exitcode is None, "the training ended before it had been killed often enough"
        process.kill()
        process.join()
        assert process.exitcode == KILLED
        kills += 1
        writing += any(at(long, runs).glob("checkpoints/.nimg-*"))
        early += process.pid not in notes(runs, "step")
    before_last, last = newest(long, runs), started(long, runs)
    before[last.pid] = before_last
    last.join(300)
    assert last.exitcode == 0
    assert writing >= 5, "too few kills fell into the writing of a checkpoint"
    again = [n // batch for n in repeated(runs, before, batch)[1:]]
    promised = 13
    assert max(again) <= promised
    assert same_lines(the_run(long, runs), long_unbroken)
    assert same_weights(the_run(long, runs), long_unbroken)
    assert checkpoints(long, runs) == kept_checkpoints(long)
    tally(1, "SIGKILL at a random moment of training", kills, kills,
        f"{writing} while a checkpoint was being written, {early} before the first step; steps repeated: median "
        f"{statistics.median(again):g}, most {max(again)}, promised {promised} at most",
    )  # fmt: skip
    tally(2, "SIGKILL at a random moment of training", kills, kills, "weights and losses equal bit for bit")

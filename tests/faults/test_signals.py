"""A signal to stop costs nothing: the step is finished and saved, the status says 75, and the next life begins there."""

import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from faults.lives import (
    at,
    checkpoints,
    newest,
    notes,
    said,
    same_lines,
    same_weights,
    started,
    the_run,
    trained,
    wait_for_steps,
)
from guidebook.config.budget import kept_checkpoints
from guidebook.config.params import load

SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}


@dataclass
class Stopped:
    """What a signal to a training led to."""

    status: int
    began: int  # images of the first step, -1 where there was none
    reached: int  # images seen by the last step
    late: int  # steps begun after the signal was sent
    safe: float  # seconds from the signal until its checkpoint was whole, NaN where there was none
    latency: float  # seconds from the signal to the end of the process
    saving: bool  # whether a checkpoint was being written when the signal came


def signalled(params, runs: Path, number: int, steps: int, delay: float) -> Stopped:
    """Starts a life, sends it the signal `delay` seconds after it began so many steps, waits for its end."""
    process = started(params, runs)
    wait_for_steps(runs, process, steps)
    time.sleep(delay)
    sent = time.monotonic()
    os.kill(process.pid, number)
    process.join(120)
    latency, batch = time.monotonic() - sent, params.train.batch
    steps, begun, whole = (
        notes(runs, what).get(process.pid, []) if (runs / "notes.txt").exists() else []
        for what in ("step", "begun", "whole")
    )
    assert process.exitcode in ((75,) if steps else (75, -number)), said(runs, process)
    if process.exitcode == 75:
        others = (
            "WARNING: took over ",
            "training mnist/smoke: ",
        )  # the second is the bar of a training on a busy machine
        text = [line for line in said(runs, process).splitlines() if not line.startswith(others)]
        assert text == [f"guidebook: stopped training after {steps[-1][0] + batch:,} images, saved; run again to go on"]
    return Stopped(
        process.exitcode,
        steps[0][0] if steps else -1,
        steps[-1][0] + batch if steps else 0,
        sum(moment > sent for _, moment in steps),
        whole[-1][1] - sent if process.exitcode == 75 else math.nan,
        latency,
        any(start < sent < end for (_, start), (_, end) in zip(begun, whole, strict=True)),
    )


def stopped_often(params, runs: Path, number: int, times: int, seed: int) -> list[Stopped]:
    """One training signalled so often, each life checked against the one before it; then left alone to its end."""
    rng, lives, was = random.Random(seed), [], 0
    while sum(life.status == 75 for life in lives) < times:
        steps = rng.randint(1, 10) if not lives or rng.random() < 0.9 else 0  # now and then while it still starts
        life = signalled(params, runs, number, steps, rng.uniform(0, 0.05))
        if life.status == 75:
            assert life.began == was  # nothing repeated, nothing left out
            assert newest(params, runs) == life.reached  # saved at that very step
            assert life.late <= 1  # a step may begin between the clock's reading and the signal's arrival
            was = life.reached
        assert newest(params, runs) == was
        assert not (at(params, runs) / "model").exists()
        assert not list(at(params, runs).glob("checkpoints/.*"))
        lives.append(life)
    assert trained(params, runs)[0] == 0
    froms = [stretch["from"] for stretch in the_run(params, runs).provenance()["stretches"]]
    assert sorted(set(froms)) == [0, *(life.reached for life in lives if life.status == 75)]
    assert checkpoints(params, runs) == kept_checkpoints(params)
    return lives


def lengths(runs: Path) -> tuple[list[float], list[float]]:
    """Seconds of every step and of every save."""
    steps = [b - a for life in notes(runs, "step").values() for (_, a), (_, b) in pairwise(life)]
    return steps, [seconds for life in notes(runs, "save").values() for _, seconds in life]


def in_time(lives: list[Stopped], runs: Path) -> str:
    """Asserts that a stop takes about a step and a save. Returns what was measured."""
    steps, saves = lengths(runs)
    stopped = [life for life in lives if life.status == 75]
    waits, busy = [life.latency for life in stopped], [life.safe for life in stopped if life.saving]
    step, save = statistics.median(steps), statistics.median(saves)
    # A save may be under way already; a busy machine doubles everything.
    assert statistics.median(waits) < 2 * (step + 2 * save) + 0.5
    assert max(waits) < 2 * (max(steps) + 2 * max(saves)) + 3
    return (
        f"median and 90th percentile in ms: from signal to whole checkpoint {spread([x.safe for x in stopped])}"
        + (f" ({len(busy)} of them while another was being written: {spread(busy)})" if busy else "")
        + f", to exit {spread(waits)}; one step {spread(steps)}, one save {spread(saves)}"
    )


def spread(seconds: list[float]) -> str:
    """Median and 90th percentile, in milliseconds."""
    most = sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1]
    return f"{1000 * statistics.median(seconds):.0f} and {1000 * most:.0f}"


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_stops_after_the_step_and_the_next_life_begins_there(short, unbroken, tmp_path, name):
    lives = stopped_often(short, tmp_path, SIGNALS[name], times=2, seed=1)
    in_time(lives, tmp_path)
    assert same_lines(the_run(short, tmp_path), unbroken)
    assert same_weights(the_run(short, tmp_path), unbroken)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_at_random_moments_cost_nothing(long, long_unbroken, tmp_path, tally, name):
    lives = stopped_often(long, tmp_path, SIGNALS[name], times=30, seed=SIGNALS[name])
    measured = in_time(lives, tmp_path)
    assert same_lines(the_run(long, tmp_path), long_unbroken)
    assert same_weights(the_run(long, tmp_path), long_unbroken)
    saved = sum(life.status == 75 for life in lives)
    fault = f"{name} at a random moment of training"
    tally(1, fault, saved, saved, f"no step repeated, {len(lives) - saved} more died of it before training; {measured}")
    tally(2, fault, saved, saved, "weights and losses equal bit for bit")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_is_gone_within_a_step_and_a_save(tmp_path, tally):
    """The trainings above step faster than the kernel takes a process with torch in it apart; the book's do not."""
    demo, names = load("mnist", "demo"), [*SIGNALS] * 8
    rng = random.Random(0)
    lives = [signalled(demo, tmp_path, SIGNALS[name], rng.randint(2, 5), rng.uniform(0, 0.5)) for name in names]
    assert [life.status for life in lives] == [75] * len(names)
    assert [life.began for life in lives] == [0, *(life.reached for life in lives[:-1])]
    measured = in_time(lives, tmp_path)
    steps, saves = lengths(tmp_path)
    assert statistics.median(life.latency for life in lives) <= statistics.median(steps) + statistics.median(saves)
    tally(2, "SIGTERM and SIGUSR1 to the MNIST demo", len(names), len(names), f"exit status 75; {measured}")


def command(params, runs: Path) -> subprocess.Popen:
    """`guidebook train`, as it is typed."""
    runs.mkdir(exist_ok=True)
    (runs / "params.yml").write_text(params.yaml())
    program = Path(sys.executable).with_name("guidebook")
    env = os.environ | {"GUIDEBOOK_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    # Whoever starts the tests in the background has SIGINT ignored, and so would have what they start.
    return subprocess.Popen(
        ["env", "--default-signal=INT", program, "train", runs / "params.yml"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens(pid: int) -> bool:
    """Whether a process has a handler for both signals: it trains."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(caught) and all(int(caught[1], 16) >> (number - 1) & 1 for number in SIGNALS.values())


def test_ctrl_c_saves_and_the_next_life_begins_there(short, unbroken, tmp_path):
    process = command(short, tmp_path)
    while process.poll() is None and not list(tmp_path.glob("*/*/stats.jsonl")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    assert newest(short, tmp_path) > 0
    assert f"stopped training after {newest(short, tmp_path):,} images" in error.splitlines()[-1]
    assert trained(short, tmp_path)[0] == 0
    assert same_lines(the_run(short, tmp_path), unbroken)
    assert same_weights(the_run(short, tmp_path), unbroken)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_itself_stops_and_goes_on(short, unbroken, tmp_path, tally):
    """What the lives above leave out: the interpreter's own start, and signals for the whole command."""
    names, ends = [*SIGNALS, *SIGNALS], []
    for name in names:
        process = command(short, tmp_path)
        while process.poll() is None and not listens(process.pid):
            time.sleep(0.005)
        process.send_signal(SIGNALS[name])
        _, error = process.communicate(timeout=120)
        ends.append(time.time() - max(at(short, tmp_path).glob("checkpoints/nimg-*")).stat().st_ctime)
        assert process.returncode == 75, error
        assert f"stopped training after {newest(short, tmp_path):,} images" in error.splitlines()[-1]
        assert the_run(short, tmp_path).provenance()["stretches"][-1]["from"] < newest(short, tmp_path)
    process = command(short, tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert statistics.median(ends) < 1  # to take an interpreter with torch in it apart lasts longer
    assert same_lines(the_run(short, tmp_path), unbroken)
    assert same_weights(the_run(short, tmp_path), unbroken)
    tally(
        2,
        "SIGTERM and SIGUSR1 to `guidebook train`",
        len(names),
        len(names),
        "exit status 75; weights equal bit for bit; from whole checkpoint to exit, median and 90th percentile in ms: "
        + spread(ends),
    )

"""A whole experiment killed at random moments: judge, autoencoder, latents, training, sampling, measuring, the record, the book."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from faults.study import CELLS, Study, children, ended, gone, written
from guidebook.config.params import load
from guidebook.config.paths import ROOT

COMMANDS = ("run", "record", "build")
SMALL = (
    CELLS[0],
    "loop.train(run)",
    "from guidebook.metrics.measure import measure, measure_real\nfrom guidebook.sampling.draw import draw\n\n"
    "sets = [draw(run, w, params.evaluate.samples) for w in params.sample.guidance]",
    'records = [*measure_real(run), *(r for s in sets for r in measure(run, s, ("judge", "blind")))]',
)
PROVED = ("metrics.json", "*.safetensors", "*.npy", "set.json")  # what two runs of one experiment have in common


def small(root: Path) -> Study:
    """Seconds of every stage."""
    params = load("celeba", "smoke").replace(
        data={"limit": 60},
        train={"batch": 10, "epochs": 10, "checkpoint_every": 2, "ema": [0.9]},
        sample={"guidance": [1, 2], "steps": 4, "batch": 10},
        evaluate={"samples": 60},
    )
    return written(root, params, SMALL)


def real(root: Path, experiment: str) -> Study:
    """The smoke of an experiment of the study, with its notebook and the book."""
    for name in ("params", "notebooks"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("_build", "results"))
    results = root / "book" / "results"
    shutil.copytree(ROOT / "book/results/mnist", results / "mnist")  # of which the chapters speak
    for kept in ("costs.json", "foundations.ipynb"):  # to make them anew takes longer than the rest of the book
        shutil.copy(ROOT / "book/results" / kept, results)
    return Study(root, root / "runs", experiment, "smoke")


def started(here: Study, command: str):
    if command == "run":
        return here.start("run", here.experiment, "--profile", here.profile)
    return here.start(command, *([str(here.folder)] if command == "record" else []))


def proved(here: Study) -> dict[str, bytes]:
    """The bytes of all that does not hold a time, by place."""
    found = {}
    for pattern in PROVED:
        for file in (f for place in (here.runs, here.root / "book" / "results") for f in place.rglob(pattern)):
            inside = file.relative_to(here.root)
            if not any(part[0] == "." for part in inside.parts) and "checkpoints" not in inside.parts:
                text = file.read_bytes()
                found[str(inside)] = text.partition(b'"seconds_per_image"')[0] if file.name == "set.json" else text
    return found


def unbroken(here: Study) -> tuple[dict[str, bytes], dict[str, float]]:
    """What an experiment ends in that nothing interrupts, and the seconds of each command."""
    seconds = {}
    for command in COMMANDS:
        began = time.monotonic()
        process = started(here, command)
        status, text = ended(process)
        assert status == 0, text
        seconds[command] = time.monotonic() - began
    return proved(here), seconds


def killed(here: Study, seconds: dict[str, float], kills: int, rng: random.Random) -> dict[str, int]:
    """Runs an experiment that is killed so often, its kernels with it, and in the end left alone. Kills by command."""
    done, left = dict.fromkeys(COMMANDS, 0), dict(seconds)
    for command in COMMANDS:
        share = {"run": kills - 2 * (kills // 5)}.get(command, kills // 5)
        while True:
            began, process = time.monotonic(), started(here, command)
            if done[command] < share:
                # The first kills fall early, for each life goes on where the one before it was
                until = began + rng.uniform(0, left[command])
                while process.poll() is None and time.monotonic() < until:
                    time.sleep(0.01)
            if process.poll() is None and done[command] < share:
                own = [process.pid, *children(process.pid)]
                for pid in own:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.communicate()
                assert gone(own, 10)
                done[command] += 1
                continue
            status, text = ended(process)
            assert status == 0, f"{command} after {done}: {text}"
            if done[command] >= share:
                break
            left[command] = time.monotonic() - began
            if (
                command == "run"
            ):  # it is done before it was killed often enough: its last stages again, a third of it or less
                again(here, rng.choice(["model", "metrics.json", "samples"]))
                left[command] = seconds[command] / 3
    return done


def again(here: Study, lost: str) -> None:
    """Takes something away that a run has made, and its notebook: while that is complete, nothing is made again."""
    here.page.unlink()
    file = here.folder / lost
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def same(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    """Places that differ."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_experiment_that_is_killed_ends_as_one_that_is_not(tmp_path, tally):
    whole, seconds = unbroken(small(tmp_path / "whole"))
    assert len(whole) > 20
    here = small(tmp_path / "killed")
    done = killed(here, seconds, int(os.environ.get("KILLS", 7)), random.Random(0))
    assert same(proved(here), whole) == []
    for lost in ("model", "metrics.json", "samples"):
        again(here, lost)
        assert same(proved(here), whole) != []  # the comparison notices
        status, text = ended(started(here, "run"))
        assert status == 0, text
        assert same(proved(here), whole) == []
    n = sum(done.values())
    tally(2, "SIGKILL at a random moment of a whole small experiment", n, n,
        f"{done['run']} while it ran, {done['record']} while it was recorded, {done['build']} while the book was built; "
        "weights, images, latents, features and metrics equal byte for byte",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("experiment", ["mnist", "celeba", "samplers"])
def test_an_experiment_that_is_killed_ends_as_one_that_is_not(experiment, tmp_path, tally):
    whole, seconds = unbroken(real(tmp_path / "whole", experiment))
    assert sum(name.startswith("runs/") for name in whole) > 10
    here = real(tmp_path / "killed", experiment)
    done = killed(here, seconds, int(os.environ.get("KILLS", 10)), random.Random(experiment))
    assert same(proved(here), whole) == []
    n = sum(done.values())
    tally(
        2,
        f"SIGKILL at a random moment of the whole of {experiment}",
        n,
        n,
        "weights, images and metrics equal byte for byte",
    )

"""Averages of weights of every kind, and snapshots of them, after SIGKILLs: those of a training that nothing interrupted, bit for bit."""

import shutil
import signal

import pytest

from faults.lives import at, deadly, same_lines, same_weights, started, the_run
from guidebook.config.params import load
from guidebook.runs.resolved import resolved

BATCH, ROWS, STEPS = 8, 24, 24
NAMED = "guidebook.runs.manifest.rename"  # (aside, folder); of one moment a snapshot is named before its checkpoint
# Snapshots after every third step, checkpoints after every fifth
MOMENTS = {
    "before a snapshot gets its name": (NAMED, "nimg-0000000048", "before"),
    "with a snapshot whose checkpoint has no name yet": (NAMED, "nimg-0000000120", "after"),
    "after the last step": ("guidebook.training.loop.publish", 1, "before"),
}
KINDS = [
    pytest.param("stable-diffusion", [0.9, 0.99], False, id="fine-tuning, decays without a warm-up"),
    # Slow: five more lives of seconds each, for decays that differ in one function
    pytest.param("ema", [0.5, 0.9], True, id="lengths, decays with a warm-up", marks=pytest.mark.slow),
]


def snapshots(run) -> dict[str, bytes]:
    return {str(f.relative_to(run.path)): f.read_bytes() for f in run.path.glob("snapshots/nimg-*/*.safetensors")}


@pytest.mark.parametrize(("experiment", "decays", "warmup"), KINDS)
def test_every_average_and_every_snapshot_after_kills_is_that_without(
    experiment, decays, warmup, shared, tmp_path, monkeypatch, tally
):
    one, other = shared(tmp_path / "one"), tmp_path / "other"
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(one))
    train = {"ema": [*decays, "power:0.05", "power:0.1"], "ema_warmup": warmup, "snapshots": 8, "precision": "fp32"}
    train |= {"batch": BATCH, "epochs": STEPS * BATCH / ROWS, "checkpoint_every": 5 * BATCH / ROWS}
    train |= {"keep_checkpoints": 2, "caption_dropout": 0.2}
    smoke = load(experiment, "smoke").replace(data={"limit": ROWS}, train=train, sample={"weights": "raw"})
    params, ends = resolved(smoke), []
    for moment in (None, *MOMENTS.values(), None):
        if len(ends) == 1:  # the training that a fine-tuning begins with is there already
            shutil.copytree(one, other, symlinks=True)
            shutil.rmtree(at(params, other))
        process = started(params, other if ends else one, *([(deadly, *moment)] if moment else []))
        process.join(120)
        ends.append(process.exitcode)
    assert ends == [0, *[-signal.SIGKILL] * len(MOMENTS), 0]
    unbroken, broken = (the_run(params, runs) for runs in (one, other))
    assert len(snapshots(broken)) == 2 * 8
    assert snapshots(broken) == snapshots(unbroken)
    assert same_weights(broken, unbroken)
    assert same_lines(broken, unbroken)
    detail = f"{len(params.train.ema)} averages and 8 snapshots of two of them equal bit for bit"
    tally(2, f"SIGKILL of a training of {experiment} at chosen moments", len(MOMENTS), len(MOMENTS), detail)

"""Averages of weights of every kind, and snapshots of them, after SIGKILLs: those of a training that nothing interrupted, bit for bit."""

import signal

import pytest

from faults.lives import deadly, same_lines, same_weights, started, the_run
from guidebook.config.params import load
from guidebook.runs.resolved import resolved

BATCH, ROWS, STEPS = 8, 24, 24
NAMED = "guidebook.runs.manifest.rename"  # (aside, folder); of one moment a snapshot is named before its checkpoint
# Snapshots after every third step, checkpoints after every fifth
MOMENTS = {
    "with a snapshot and no checkpoint": (NAMED, "nimg-0000000024", "after"),
    "before a snapshot gets its name": (NAMED, "nimg-0000000048", "before"),
    "with a snapshot whose checkpoint has no name yet": (NAMED, "nimg-0000000120", "after"),
    "after the last step": ("guidebook.training.loop.publish", 1, "before"),
}
FIRST = {"in the training that it begins with": ("guidebook.training.step.Trainer.step", 3, "before")}
KINDS = {
    "fine-tuning, decays without a warm-up": ("stable-diffusion", [0.9, 0.99], False, FIRST | MOMENTS),
    "lengths, decays with a warm-up": ("ema", [0.5, 0.9], True, MOMENTS),
}  # fmt: skip


def snapshots(run) -> dict[str, bytes]:
    return {str(f.relative_to(run.path)): f.read_bytes() for f in run.path.glob("snapshots/nimg-*/*.safetensors")}


@pytest.mark.parametrize(("experiment", "decays", "warmup", "moments"), KINDS.values(), ids=KINDS)
def test_every_average_and_every_snapshot_after_kills_is_that_without(
    experiment, decays, warmup, moments, shared, tmp_path, monkeypatch, tally
):
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path / "here")))
    train = {"ema": [*decays, "power:0.05", "power:0.1"], "ema_warmup": warmup, "snapshots": 8, "precision": "fp32"}
    train |= {"batch": BATCH, "epochs": STEPS * BATCH / ROWS, "checkpoint_every": 5 * BATCH / ROWS}
    train |= {"keep_checkpoints": 2, "caption_dropout": 0.2}
    smoke = load(experiment, "smoke").replace(data={"limit": ROWS}, train=train, sample={"weights": "raw"})
    params, ends = resolved(smoke), {}
    broken, unbroken = (shared(tmp_path / name) for name in ("broken", "unbroken"))
    lives = [(broken, *life) for life in moments.items()] + [(folder, str(folder), None) for folder in (broken, unbroken)]
    for runs, name, moment in lives:
        process = started(params, runs, *([(deadly, *moment)] if moment else []))
        process.join(120)
        ends[name] = process.exitcode
    assert ends == dict.fromkeys(moments, -signal.SIGKILL) | {str(broken): 0, str(unbroken): 0}
    one, other = (the_run(params, runs) for runs in (broken, unbroken))
    assert len(snapshots(one)) == 2 * 8
    assert snapshots(one) == snapshots(other)
    assert same_weights(one, other)
    assert same_lines(one, other)
    detail = f"{len(params.train.ema)} averages and 8 snapshots of two of them equal bit for bit"
    tally(2, f"SIGKILL of a training of {experiment} at chosen moments", len(moments), len(moments), detail)

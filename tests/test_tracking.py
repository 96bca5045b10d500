"""A tracker shows what `stats.jsonl` says; the file stays the truth."""

import importlib.util

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from guidebook.runs.run import open_run
from guidebook.training.loop import train
from guidebook.training.tracking import TrackerMissing, tracker


def test_tensorboard_shows_the_losses_of_the_statistics_by_images_seen(runs, tiny):
    run = open_run(tiny.replace(train={"tracker": "tensorboard"}))
    train(run)
    shown = EventAccumulator(str(run.path / "tensorboard")).Reload()
    found = [(e.step, e.value) for e in shown.Scalars("loss")]
    assert found == [(row["nimg"], pytest.approx(row["loss"], rel=1e-6)) for row in run.stats()]
    assert len(found) == 2


def test_there_is_none_unless_params_name_one(runs, tiny):
    run = open_run(tiny)
    train(run)
    assert not (run.path / "tensorboard").exists()


def test_a_tracker_does_not_make_it_another_run(tiny):
    assert tiny.replace(train={"tracker": "tensorboard"}).training_key == tiny.training_key


def test_a_tracker_that_is_not_installed_is_named_before_the_first_step(runs, tiny, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = open_run(tiny.replace(train={"tracker": "tensorboard"}))
    with pytest.raises(TrackerMissing, match=r"train\.tracker = tensorboard: the package is missing; pip install"):
        tracker(run)

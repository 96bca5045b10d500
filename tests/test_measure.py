"""Metric records: complete, found again, and with a floor that can be compared."""

import json

import pytest

from guidebook.imagesets import ImageSet
from guidebook.metrics import measure as M
from guidebook.run import open_run

FIELDS = {
    "metric",
    "value",
    "low",
    "high",
    "interval",
    "n",
    "guidance",
    "prompt",
    "sampler",
    "steps",
    "weights",
    "seed",
}


@pytest.fixture
def run(runs, tiny):
    return open_run(tiny.replace(data={"limit": None}, evaluate={"samples": 100}))


def as_samples(run, n):
    """The first n real test images, as if they had been drawn."""
    test = M.load(run.params.data).test
    facts = dict.fromkeys(("guidance", "prompt", "sampler", "steps", "weights", "seed", "seconds_per_image"))
    return ImageSet(
        "w1",
        run.path / "samples" / "w1-00000000",
        test.images[:n],
        facts | {"guidance": 1.0, "n": n, "labels": test.labels[:n].tolist()},
    )


def test_the_floor_is_what_real_images_score_as_samples(run):
    real = next(r for r in M.measure_real(run) if r["metric"] == "fd_judge")
    same = next(r for r in M.measure(run, as_samples(run, run.params.evaluate.samples)) if r["metric"] == "fd_judge")
    assert real["n"] == same["n"] == run.params.evaluate.samples
    assert real["value"] == same["value"]


def test_every_record_has_its_interval_its_number_and_its_method(run):
    for record in M.measure_real(run):
        assert set(record) >= FIELDS
        assert record["low"] <= record["value"] <= record["high"]
        assert record["low"] < record["high"]


def test_the_judge_reads_the_whole_test_split(run):
    record = M.judge_record(run)
    assert record["n"] == 360
    assert record["value"] > 0.97


def test_a_measurement_is_made_once(run, monkeypatch):
    first = M.measure_real(run)
    monkeypatch.setattr(M, "_records", lambda *_: pytest.fail("measured again"))
    assert M.measure_real(run) == first
    assert json.loads((run.path / "metrics.json").read_text()) == first

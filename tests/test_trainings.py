"""The same run trained again: found by its seed alone, told beside its own values, kept in its record."""

import os
import shutil

import numpy as np
import pytest
from forks import executed

from guidebook.book.progress import _cells
from guidebook.book.status import overview
from guidebook.metrics.difference import again
from guidebook.metrics.measure import measure
from guidebook.metrics.subject import packed
from guidebook.report import charts, tables
from guidebook.runs.lock import lock
from guidebook.runs.recording import record
from guidebook.runs.run import open_run, opened
from guidebook.runs.trainings import siblings, trained_again, turn
from guidebook.sampling.draw import draw
from guidebook.training.loop import train

DROPOUT = {"train": {"caption_dropout": 0.1}}


def value(each, training=0, **more):
    each = np.asarray(each, float)
    half = 1.96 * each.std(ddof=1) / len(each) ** 0.5
    facts = {"metric": "grain", "n": len(each), "draw": {"n": len(each)}, "guidance": 1.0, "extractor": "pixels"}
    bounds = {"value": each.mean(), "low": each.mean() - half, "high": each.mean() + half}
    return facts | bounds | {"training": training, "influence": packed(each)} | more


def test_siblings_differ_in_their_seed_alone(runs, tiny):
    run, same, other = (open_run(tiny.replace(train=t)) for t in ({}, {"seed": 3}, {"seed": 3, "lr": 0.5}))
    inside, variant = run.trainings(2)[1], run.variant("caption-dropout", **DROPOUT)
    assert [s.path for s in siblings(run)] == [inside.path, same.path]
    assert {s.path for s in siblings(same)} == {run.path, inside.path}
    assert siblings(other) == siblings(variant) == []
    again = same.variant("caption-dropout", train={"caption_dropout": 0.1})
    assert [s.path for s in siblings(variant)] == [again.path]
    assert trained_again(run) == {"seed-1": inside.path, "seed-3": same.path, "caption-dropout-seed-3": again.path}
    (same.path / "params.yml").write_text("experiment: mnist\n")
    assert [s.path for s in siblings(run)] == [inside.path]


def test_a_training_among_others_of_its_notebook_says_which_it_is(runs, tiny, monkeypatch):
    run, said = open_run(tiny), []
    assert turn(run) == ""
    _, second = run.trainings(2)
    monkeypatch.setattr("guidebook.runs.progress.tell", said.append)
    with lock(run.path):
        (row,) = (r for r in overview([run, second]) if r["state"] == "training")
    assert (row["run"], row["training"], _cells(row | {"folder": "", "job": None})["state"]) == (
        "mnist/smoke",
        "1 of 2",
        "training 1 of 2",
    )
    train(run)
    assert turn(second) == "2 of 2"
    train(second)
    first, later = ([text for text in said if name in text] for name in ("smoke,", "smoke · seed-1,"))
    assert first[0] == "training 1 of 2: mnist/smoke, 0 of 128 images"
    assert later[0] == "training 2 of 2: mnist/smoke · seed-1, 0 of 128 images"


def test_a_variant_that_no_notebook_asks_for_any_more_is_no_training_of_it(runs, tiny):
    run = open_run(tiny)
    old = run.variant("caption-dropout", **DROPOUT)
    os.utime(old.path / "params.yml", (0, 0))
    run.trainings(3)
    assert turn(run) == "1 of 3"


def test_the_mean_over_trainings_is_covered_by_its_two_level_interval():
    rng, inside, narrow = np.random.default_rng(0), 0, 0
    for _ in range(400):
        noise = rng.normal(size=50)
        every = [value(0.5 * rng.normal() + noise + rng.normal(size=50), k) for k in range(3)]
        told = again(every[0], every[1:])["again"]
        inside += told["low"] <= 0 <= told["high"]
        narrow += every[0]["low"] <= 0 <= every[0]["high"]
    assert told["trainings"] == 3
    assert told["value"] == pytest.approx(np.mean([r["value"] for r in every]))
    assert told["spread"] == pytest.approx(np.std([r["value"] for r in every], ddof=1))
    assert 0.93 <= inside / 400 <= 0.995
    assert narrow / 400 < 0.8


@pytest.mark.parametrize("changed", [{"n": 9}, {"draw": {"n": 20, "at": 5}}, {"extractor": "judge-b"}, {"training": 0}])
def test_only_another_training_of_a_set_drawn_and_measured_alike_counts(changed):
    one = value(np.arange(20.0))
    assert again(one, [value(np.arange(20.0), 1) | changed]) == one
    assert again(one, []) == one


def test_tables_and_charts_tell_it_beside_the_value_and_look_as_before_without():
    one = value(np.arange(20.0))
    told = again(one, [value(np.arange(20.0) + 2, 1), value(np.arange(20.0) + 4, 2)])
    plain, table = (tables.metric_table([r]).text for r in (one, told))
    assert tables.over_trainings(one) == tables.with_interval(one)
    assert tables.over_trainings(told).startswith(f"{tables.with_interval(one)}; 3 trainings: 11.5 [")
    assert tables.over_trainings(told).endswith("], sd 2")
    assert "trainings" in table
    assert "trainings" not in plain
    drawn = []
    for r in (one, told):
        axes = charts.plt.figure().add_subplot()
        charts.errors(axes, [0], [r], color="k")
        drawn.append(len(axes.collections))
        charts.plt.close()
    assert drawn[1] == drawn[0] + 1


@pytest.fixture
def thrice(runs, tiny):
    """Three runs of seeds 0, 1 and 2, the first finished, each with a set that is measured for what needs no judge."""
    every = [open_run(tiny.replace(train={"seed": s})) for s in range(3)]
    for run in every:
        train(run)
        measure(run, draw(run, 1.0, 30), ("blind",))
    executed(every[0].path)
    return every


def test_a_runs_records_tell_its_other_trainings_and_so_does_its_record(thrice, runs):
    measure.__globals__["_siblings"].cache_clear()
    run = thrice[0]
    kept = opened(record(run))
    shutil.rmtree(runs)
    for r in measure(kept, draw(kept, 1.0, 30), ("blind",)):
        own = [s.metrics(metric=r["metric"], guidance=1.0)[0]["value"] for s in (kept, *siblings(kept))]
        assert len(set(own)) == r["again"]["trainings"] == 3
        assert r["again"]["value"] == pytest.approx(np.mean(own))
        assert r["value"] == own[0]
    measure.__globals__["_siblings"].cache_clear()

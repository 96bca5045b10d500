"""Intervals hold what they should: the recorded simulation, and a short one of the intervals that are quickly made."""

import json

import numpy as np
import pytest

from bench import coverage
from guidebook.book import pages
from guidebook.metrics.intervals import once, within

RECORD = json.loads(coverage.FILE.read_text())
TRIALS = {(what, of): (trial, truth) for what, of, trial, truth in [*coverage.single(), *coverage.differences()]}
# By their intervals alone trainings that are exactly alike, and coverage: the first too wide, the second a little too narrow
LOOSE = {
    ("difference: grain, confidence, …", "3 trainings of each, alike, by their intervals"),
    ("coverage", "a good model"),
}


def test_the_record_has_every_interval_and_95_percent_of_each_hold_what_they_should():
    assert RECORD["made"]["repetitions"] >= 1000
    found = {(r["what"], r["of"]): r["coverage"] for r in RECORD["rows"]}
    assert list(found) == list(TRIALS)
    assert {row for row, share in found.items() if not 0.93 <= share <= 0.98} <= LOOSE
    assert all(0.92 <= share <= 0.99 for share in found.values())


QUICK = [
    row for row in TRIALS if row[0].startswith(("Fréchet", "adherence", "difference: adherence", "difference: grain"))
]


@pytest.mark.parametrize("row", [row for row in QUICK if row not in LOOSE], ids=": ".join)
def test_an_interval_is_as_wide_as_the_scatter_of_its_value_and_holds_what_it_should(row):
    found = coverage.covered(*TRIALS[row], repetitions=200, seed=1)
    assert 0.90 <= found["coverage"] <= 0.99
    if "trainings" not in row[1]:  # Student's t is wider
        assert found["width"] == pytest.approx(1, abs=0.2)


def test_differences_between_classes_are_no_chance_where_every_class_is_drawn_as_often():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 10
    values = rng.normal(size=100)
    assert np.std(within(values + 50 * labels, labels)) == pytest.approx(np.std(values), rel=0.2)
    every = np.arange(100)  # no class has two: one class of all
    np.testing.assert_allclose(within(values, every), values - values.mean())
    np.testing.assert_allclose(within(np.stack([values, 2 * values], 1), labels)[:, 1], 2 * within(values, labels))


def test_the_quadratic_part_of_a_variance_is_counted_once():
    each = np.random.default_rng(0).normal(size=50)
    error = each.var(ddof=1) / 50
    assert once(each, error / 4).var(ddof=1) / 50 == pytest.approx(0.75 * error)
    assert once(each, error).var(ddof=1) / 50 == pytest.approx(
        0.5 * error
    )  # it is at most half of what the jackknife finds
    assert (once(each, 0.0) == each).all()


def test_the_page_shows_every_interval():
    page = pages.how_to_read()
    assert page.count("<tr>") >= len(TRIALS)
    assert "<!-- " not in page
    assert "1000 simulated sets of 500 images" in page

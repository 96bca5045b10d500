"""Copies are found, unseen images are not taken for copies, and the interval holds what it promises."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from guidebook.metrics import copying as module
from guidebook.metrics.copying import copies, copying, expected, nearest
from guidebook.metrics.measure import neighbours
from guidebook.runs.run import open_run
from guidebook.sampling.sets import ImageSet


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (n, 3, 5, 4), dtype=torch.uint8, generator=rng) for n in (7, 50)]


@pytest.mark.parametrize("numbers", [2**28, 60 * 13, 1])
def test_the_nearest_is_the_nearest_whatever_is_compared_at_a_time(images, numbers, monkeypatch):
    monkeypatch.setattr(module, "PART", numbers)
    some, among = images
    apart = (some[:, None].double() - among.double()).square().mean((2, 3, 4)).sqrt()
    distance, which = nearest(some, among)
    torch.testing.assert_close(distance.double(), apart.min(1).values, rtol=1e-4, atol=1e-3)
    assert which.tolist() == apart.argmin(1).tolist()
    assert nearest(among[3:5], among)[1].tolist() == [3, 4]


def test_of_two_images_of_one_value_the_distance_is_the_difference():
    a, b = (torch.full((1, 3, 8, 8), v, dtype=torch.uint8) for v in (10, 31))
    assert nearest(a, b)[0].item() == pytest.approx(21, rel=1e-5)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 2.0])
def test_it_is_the_probability_to_be_nearer(shift):
    rng = np.random.default_rng(1)
    value, low, high = copying(rng.normal(size=20_000) - shift, rng.normal(size=20_000))
    assert value == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.01)
    assert low < value < high < low + 0.02


def test_copies_ties_and_what_lies_far_away():
    unseen = np.arange(1.0, 51.0)
    assert copying(np.zeros(20), unseen)[0] == 1
    assert copying(np.full(20, 99.0), unseen)[0] == 0
    assert copying(unseen, unseen)[0] == pytest.approx(0.5, abs=1e-12)
    assert copying(np.full(9, 3.0), np.full(7, 3.0)) == (0.5, 0.5, 0.5)


def test_a_few_copies_are_seen_among_samples_that_lie_far_away():
    unseen, samples = np.arange(1.0, 502.0), np.full(200, 999.0)
    assert copies(samples, unseen)[0] == 0
    samples[:3] = (0, 5.9, 6)  # 1 % of the unseen ones lie nearer than 6
    for doubles in (0, 4):
        unseen[:doubles] = 0  # some of them have a double among the training images
        value, low, high = copies(samples, unseen)
        assert value == 2 / 200
        assert 0 < low < value < high < 0.05
    assert copying(samples, unseen)[0] < 0.02  # where the mean says nothing
    assert abs(copies(unseen, unseen)[0] - 0.01) < 0.003


def test_the_interval_covers_the_probability_as_often_as_it_says():
    rng, truth, hits = np.random.default_rng(0), norm.cdf(0.5 / 2**0.5), 0
    for _ in range(1000):
        _, low, high = copying(rng.normal(size=60) - 0.5, rng.normal(size=40))
        hits += low <= truth <= high
    assert 0.92 < hits / 1000 < 0.97


def test_the_pairs_are_those_nearest_first_and_are_found_again(tiny, runs):
    from guidebook.data.images import load

    run, train = open_run(tiny), load(tiny.data).train
    made = torch.cat([255 - train.images[:6], train.images[10:12]])
    facts = {"labels": [1] * 8, "n": 8, "shape": list(made.shape[1:])}
    found = neighbours(run, ImageSet("samples", run.path / "samples" / "samples-0", made, facts), n=3)
    assert torch.equal(found.images[[0, 2]], found.images[[1, 3]])  # the two copies
    assert sorted(found.facts["distances"]) == found.facts["distances"]
    assert found.facts["distances"][:2] == [0, 0] != found.facts["distances"][2]
    again = neighbours(run, ImageSet("samples", run.path / "samples" / "samples-0", made * 0, facts), n=3)
    assert torch.equal(again.images, found.images)


@pytest.mark.parametrize("m", [216, 1000])
def test_of_unseen_images_seldom_more_than_expected_are_called_copies(m):
    rng, above, rounds = np.random.default_rng(3), 0, 400
    for _ in range(rounds):
        unseen, others = rng.normal(size=m), rng.normal(size=500)
        above += copies(others, unseen)[1] > expected(m)
    assert above / rounds <= 0.05
    assert 0.01 < expected(m) < 0.04

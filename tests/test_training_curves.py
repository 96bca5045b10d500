"""Numbers of a loss's curve: known curves have known ones, and the verdicts that rest on them."""

import numpy as np
import pytest

from guidebook.metrics.compare import FAILS, HOLDS, UNDECIDED, above
from guidebook.metrics.curves import apart, early, losses, roughness
from guidebook.metrics.difference import numbers

ROUNDS, LINES = 1000, 35
LIMIT = 0.05 + 2.6 * (0.05 * 0.95 / ROUNDS) ** 0.5  # one in 200 simulations of an exact test is above it


def curve(rng, noise, power=0.4, m=LINES):
    """A loss that falls by a power of the images seen, each line off by a share of it."""
    return np.arange(1, m + 1) ** -power * np.exp(noise * rng.normal(size=m))


@pytest.mark.parametrize("level", [0.01, 100.0])
@pytest.mark.parametrize("rate", [0.0, -0.05])
def test_a_loss_that_falls_by_the_same_share_is_smooth_whatever_its_level_and_slope(level, rate):
    assert roughness(level * np.exp(rate * np.arange(50))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_roughness_is_the_share_by_which_values_are_off_their_trend(noise):
    rng = np.random.default_rng(0)
    found = [roughness(curve(rng, noise)[5:]) ** 2 for _ in range(300)]
    assert np.mean(found) ** 0.5 == pytest.approx(noise, rel=0.03)


def test_trainings_are_apart_by_the_share_by_which_they_are_off_their_mean_whatever_its_course():
    course = curve(np.random.default_rng(3), 0.5)
    found = apart([course * np.exp(by) for by in (0.3, -0.1, -0.2)])
    np.testing.assert_allclose(found, [0.3, 0.1, 0.2], rtol=1e-9)
    turns = np.where(np.arange(LINES) % 2, 1.0, -1.0)
    np.testing.assert_allclose(apart([course * np.exp(0.1 * turns), course * np.exp(-0.1 * turns)]), 0.1, rtol=1e-9)


def test_a_straight_line_is_not_seen_in_fewer_than_three_values():
    assert roughness([1.0, 2.0]) is roughness([]) is None
    assert roughness([1.0, np.e, 1.0]) == pytest.approx(2 / 6**0.5)


def test_a_line_that_a_checkpoint_cut_short_is_left_out():
    stats = [{"nimg": n, "loss": float(n)} for n in (20, 40, 45, 60, 80)]
    seen, loss = losses(stats)
    assert seen.tolist() == loss.tolist() == [20, 40, 60, 80]
    assert [len(x) for x in losses([])] == [0, 0]


@pytest.mark.parametrize(("then", "part"), [(0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (0.0, 10 / 9)])
def test_how_much_of_the_fall_is_done_after_a_quarter(then, part):
    seen = np.arange(1, 101)
    loss = np.select([seen < 20, seen < 31, seen > 90], [1.0, then, 0.1], 7.0)
    assert early(seen, loss) == pytest.approx(part)


def test_a_loss_that_does_not_fall_or_is_not_known_there_has_no_early_part():
    assert early([1, 2], [1.0, 1.0]) is early([1, 100], [1.0, 0.5]) is early([], []) is None


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("common", [0.0, 1.0])
def test_numbers_of_trainings_that_do_not_differ_are_seldom_told_apart(count, common):
    rng, found = np.random.default_rng(count), []
    for _ in range(ROUNDS):
        seeds, own = common * rng.normal(size=count), rng.normal(size=(2, count))
        found.append(above(tuple(numbers(list(seeds + x), "x") for x in own), training=True).outcome)
    assert 0.02 < 1 - found.count(UNDECIDED) / ROUNDS <= LIMIT


def test_roughness_of_equal_noise_is_seldom_told_apart():
    rng, found = np.random.default_rng(1), []
    for _ in range(ROUNDS):
        sides = [numbers([roughness(curve(rng, 0.1)) for _ in range(3)], "roughness") for _ in range(2)]
        found.append(above(tuple(sides), training=True).outcome)
    assert 1 - found.count(UNDECIDED) / ROUNDS <= LIMIT


def test_three_trainings_tell_a_rough_loss_from_a_smooth_one_both_ways():
    rng = np.random.default_rng(2)
    rough, smooth = (numbers([roughness(curve(rng, s)) for _ in range(3)], "roughness") for s in (0.2, 0.05))
    assert above((rough, smooth), training=True).outcome == HOLDS
    assert above((smooth, rough), training=True).outcome == FAILS


def test_a_number_that_was_not_measured_decides_nothing():
    assert numbers([1.0, None, 2.0], "x") is None
    assert above((numbers([1.0, None], "x"), numbers([3.0, 4.0], "x")), training=True).outcome == UNDECIDED

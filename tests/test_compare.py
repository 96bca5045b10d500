"""Verdicts: both outcomes can occur, at no effect at most one in twenty decides, and what does not compare is refused."""

import numpy as np
import pytest

from guidebook.metrics import compare
from guidebook.metrics.compare import FAILS, HOLDS, UNDECIDED, Verdict, above, least
from guidebook.metrics.difference import NotComparable, again, among, difference, influence, minus, times
from guidebook.metrics.frechet import gaussian, influences
from guidebook.metrics.intervals import normal
from guidebook.metrics.subject import packed

ROUNDS = 400
DRAW = {"n": 100, "seed": 1, "guidance": {"w": 1.0}}


def record(each, w=1.0, training=0, value=None, **fields):
    """A record of a mean, or of a value with influences."""
    each = np.asarray(each, float)
    middle, low, high = normal(float(each.mean()) if value is None else value, each.std(ddof=1) / len(each) ** 0.5)
    facts = {"metric": "grain", "n": len(each), "extractor": "pixels", "reference": None, "guidance": w}
    known = {"draw": DRAW | {"n": len(each), "guidance": {"w": w}}, "training": training, "interval": "normal"}
    return facts | known | {"value": middle, "low": low, "high": high, "influence": packed(each)} | fields


def shares(rng, n, odds, together):
    """0 or 1 of n images in each of several sets, whose images agree as far as they are drawn from one seed."""
    common, own = rng.random(n), rng.random((len(odds), n))
    return [((np.where(rng.random(n) < together, common, u)) < p).astype(float) for p, u in zip(odds, own, strict=True)]


def decided(judged) -> float:
    outcomes = [v.outcome for v in judged]
    assert set(outcomes) <= {HOLDS, FAILS, UNDECIDED}
    return 1 - outcomes.count(UNDECIDED) / len(outcomes)


LIMIT = 0.05 + 2.6 * (0.05 * 0.95 / ROUNDS) ** 0.5  # one in 200 simulations of an exact test is above it


def test_influences_come_back_as_they_were_kept():
    each = np.random.default_rng(0).normal(size=500) * 3e6
    found = influence({"influence": packed(each)})
    np.testing.assert_allclose(found, each, rtol=6e-4, atol=1e-3 * 3e6)
    assert (influence({"influence": packed(np.array([0, 1, 1]))}) == [0, 1, 1]).all()
    assert influence({}) is None


@pytest.mark.parametrize("n", [50, 500])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("together", [0.0, 0.9])
def test_shares_that_do_not_differ_are_seldom_told_apart(n, share, together):
    rng = np.random.default_rng(n)
    pairs = (shares(rng, n, (share, share), together) for _ in range(ROUNDS))
    assert decided(above((record(a), record(b))) for a, b in pairs) <= LIMIT


@pytest.mark.parametrize("gap", [0.1, -0.1])
def test_the_interval_of_two_shares_covers_their_difference(gap):
    rng, inside = np.random.default_rng(1), 0
    for _ in range(ROUNDS):
        a, b = shares(rng, 200, (0.6 + gap, 0.6), 0.7)
        _, low, high = above((record(a), record(b))).interval
        inside += low <= gap <= high
    assert 0.93 <= inside / ROUNDS <= 0.995


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_distances_of_equal_sets_are_seldom_told_apart_and_their_difference_is_covered(together):
    rng = np.random.default_rng(2)
    reference = gaussian(rng.normal(size=(4000, 8)))

    def distance(x, w):
        value, each = influences(x, reference)
        return record(each.cpu().numpy(), w=w, value=value, metric="fd_judge")

    found = []
    for _ in range(ROUNDS):
        noise = rng.normal(size=(3, 200, 8))
        a, b = (0.3 + together**0.5 * noise[0] + (1 - together) ** 0.5 * x for x in noise[1:])
        found.append(above((distance(a, 1.0), distance(b, 2.0)), differ=("guidance",)))
    assert decided(found) <= LIMIT
    inside = np.mean([v.interval[1] <= 0 <= v.interval[2] for v in found])
    assert 0.93 <= inside <= 0.99


def trainings(rng, effect, spread, n=100, count=3):
    """Records of trainings of two kinds, of the same samples' seeds."""
    noise, found = rng.normal(size=n), ([], [])
    for seed in range(count):
        for kind, mean in zip(found, (effect, 0.0), strict=True):
            kind.append(record(mean + spread * rng.normal() + noise + rng.normal(size=n), training=seed))
    return found


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_trainings_that_differ_by_their_seeds_alone_are_seldom_told_apart(spread):
    rng = np.random.default_rng(3)
    assert decided(above(trainings(rng, 0.0, spread), training=True) for _ in range(ROUNDS)) <= LIMIT


def test_one_training_would_tell_them_apart():
    """Why a claim about training needs several."""
    rng = np.random.default_rng(4)
    pairs = (trainings(rng, 0.0, 0.3) for _ in range(ROUNDS))
    assert decided(above((a[0], b[0])) for a, b in pairs) > 0.3


@pytest.mark.parametrize(
    "pairs", [((0, 1), (0, 2), (0, 3)), ((1, 0), (2, 1), (3, 2))], ids=["the best of four", "a rise"]
)
def test_several_comparisons_decide_no_oftener(pairs):
    rng, found = np.random.default_rng(5), []
    for _ in range(ROUNDS):
        common = rng.normal(size=200)
        every = [record(common + rng.normal(size=200)) for _ in range(4)]
        found.append(above(*((every[i], every[j]) for i, j in pairs)))
    assert decided(found) <= LIMIT


@pytest.mark.parametrize(("within", "without"), [(4, 1), (1, 7), (3, 3)])
def test_the_best_of_several_that_is_chosen_by_the_data_decides_no_oftener(within, without):
    rng, found = np.random.default_rng(6), []
    for _ in range(ROUNDS):
        every = [record(rng.normal(size=100)) for _ in range(within + without)]
        found.append(least(every[:within], every[within:]))
    assert decided(found) <= LIMIT


def cells_of(rng, *means, spread=1.0):
    """Of each cell the places of its lowest records, of records with these means drawn from the same seeds."""
    found = []
    for each in means:
        common = rng.normal(size=100)
        every = [record(m + common + spread * rng.normal(size=100), w=w) for w, m in enumerate(each)]
        found.append({every.index(r) for r in compare.lowest(every, ("guidance",), len(means))})
    return found


CLEAR, TIE = (0.0, 9.0, 9.0), (0.0, 0.0, 0.0)  # the first is the lowest of all


@pytest.mark.parametrize("means", [(CLEAR, TIE, TIE), (TIE, TIE, TIE), (CLEAR, CLEAR, TIE)])
def test_where_one_scale_is_the_best_of_all_cells_it_is_seldom_said_to_move(means):
    rng = np.random.default_rng(10)
    found = [compare.moves(cells_of(rng, *means)) for _ in range(ROUNDS)]
    assert found.count(HOLDS) / ROUNDS <= LIMIT


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.5])
def test_where_the_best_scale_moves_it_is_seldom_said_to_stay(gap):
    """In the last cell the second is lower than the first by `gap`."""
    rng, last = np.random.default_rng(11), (0.0, -gap, 9.0)
    found = [compare.moves(cells_of(rng, CLEAR, CLEAR, last)) for _ in range(ROUNDS)]
    assert found.count(FAILS) / ROUNDS <= LIMIT


def test_all_cells_hold_their_truly_lowest():
    rng = np.random.default_rng(12)
    held = sum(all(0 in cell for cell in cells_of(rng, TIE, TIE, TIE)) for _ in range(ROUNDS))
    assert held / ROUNDS >= 1 - LIMIT


def test_whether_the_best_scale_moves_can_come_out_all_ways():
    rng, other = np.random.default_rng(13), CLEAR[::-1]
    assert cells_of(rng, CLEAR, other) == [{0}, {2}]
    assert compare.moves(cells_of(rng, CLEAR, other)) == HOLDS
    assert compare.moves(cells_of(rng, CLEAR, CLEAR)) == FAILS
    assert compare.moves([{0}, {0, 1}]) == compare.moves([{0, 1}, {1, 2}]) == compare.moves([{0}]) == UNDECIDED
    assert compare.moves([{0, 1}, {1, 2}, {0, 2}]) == HOLDS  # no one scale serves all three


def test_every_verdict_can_come_out_both_ways():
    rng = np.random.default_rng(7)
    low, middle, high = (record(m + rng.normal(size=200), w=m) for m in (0.0, 3.0, 6.0))
    way = {"differ": ("guidance",)}
    assert above((high, low), **way).outcome == HOLDS
    assert (above((high, low), **way).of, above((0.5, low), **way).of, least([low], [high], **way).of) == ("grain",) * 3
    assert above((low, high), **way).outcome == FAILS
    assert above((high, low), (high, middle), **way).outcome == HOLDS
    assert above((middle, low), (middle, high), **way).outcome == FAILS
    assert least([high, low], [middle], **way).outcome == HOLDS
    assert least([high, middle], [low], **way).outcome == FAILS
    assert least([low], [], **way) == above(**way) == above((low, None)) == Verdict(UNDECIDED, None, 0)
    first, second = trainings(rng, 5.0, 0.1)
    assert above((first, second), training=True).outcome == HOLDS
    assert above((first, second), training=True).sides == ()
    assert above((second, first), training=True).outcome == FAILS


def test_the_comparison_that_decides_is_named():
    """Its own metric, not that of the first pair, and what tells its sides apart."""
    rng = np.random.default_rng(3)
    low, middle, high = (record(m + rng.normal(size=200), w=m) for m in (0.0, 3.0, 6.0))
    rough, fine = (r | {"metric": "saturation"} for r in (middle, low))
    way = {"differ": ("guidance", "weights")}
    found = above((high, low), (rough, fine), **way)
    assert (found.outcome, found.of, found.sides) == (HOLDS, "saturation", ("w = 3", "w = 0"))
    assert (found.opposite().of, found.opposite().sides) == ("saturation", ("w = 0", "w = 3"))
    failed = above((high, low), (fine, rough), **way)
    assert (failed.outcome, failed.of, failed.sides) == (FAILS, "saturation", ("w = 0", "w = 3"))
    own = high | {"draw": high["draw"] | {"weights": "ema-0.9"}}
    raw = low | {"draw": low["draw"] | {"weights": "raw"}}
    assert above((own, raw), **way).sides == ("ema-0.9 at w = 6", "raw at w = 0")
    assert above((times(own, 2), raw), **way).sides == ("2 × ema-0.9 at w = 6", "raw at w = 0")
    assert above((high, 0.5)).sides == ("what was found", "0.5")
    assert above((high, low | {"guidance": None, "draw": None})).sides == ()


def test_what_is_undecided_shows_the_comparison_that_keeps_it_from_holding():
    rng = np.random.default_rng(0)
    sure, wide = (trainings(rng, effect, spread) for effect, spread in ((1, 0.01), (3, 3)))
    assert above(sure, training=True).outcome == HOLDS
    found = above(sure, wide, training=True)
    assert found.outcome == UNDECIDED
    assert found.interval[1] < 0 < found.interval[2]
    assert found.interval == above(wide, training=True).interval


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n": 200}, "n is 100 and 200"),
        ({"metric": "fd_judge"}, "metric is grain and fd_judge"),
        ({"extractor": "judge-b"}, "extractor is pixels and judge-b"),
        ({"reference": "train split"}, "reference is None and train split"),
        ({"draw": DRAW | {"seed": 2}}, "draw.seed is 1 and 2"),
        ({"draw": DRAW | {"guidance": {"w": 5.0}}}, "draw.guidance is {'w': 1.0} and {'w': 5.0}"),
        ({"draw": DRAW | {"at": 50}}, "draw.at is None and 50"),
    ],
)
def test_records_of_different_kinds_are_refused_and_both_named(changed, said):
    a = record(np.arange(100.0))
    with pytest.raises(NotComparable, match=r"and .* do not compare: ") as error:
        above((a, a | changed))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_claim_about_training_needs_two_trainings_of_each():
    a = record(np.arange(100.0))
    with pytest.raises(
        NotComparable, match=r"of 1 and .* of 1 trainings: a claim about training needs two or more of each"
    ):
        above((a, a), training=True)
    with pytest.raises(NotComparable, match=r"of 2 and .* of 1 trainings"):
        above(([a, a | {"training": 1}], a))
    with pytest.raises(NotComparable, match=r"seeds \[0, 0\], of which two are the same"):
        above(([a, a], [a, a]), training=True)


def test_records_without_influences_compare_by_their_own_intervals():
    """Real images have no seeds in common with samples."""
    rng = np.random.default_rng(8)
    samples, real = record(rng.normal(size=200)), record(rng.normal(size=200), w=None, draw=None)
    bare = {k: v for k, v in samples.items() if k != "influence"}
    for a, b in ((samples, real), (bare, samples)):
        _, low, high = above((a, b)).interval
        assert high - low == pytest.approx(2 * 1.96 * (2 / 200) ** 0.5, rel=0.2)


def test_only_means_compare_with_another_number_of_real_images():
    rng = np.random.default_rng(14)
    samples, real = record(1 + rng.normal(size=100)), record(rng.normal(size=200), w=None, draw=None)
    assert above((samples, real)).outcome == HOLDS
    with pytest.raises(NotComparable, match="n is 100 and 200"):
        above((samples | {"interval": "infinitesimal jackknife"}, real | {"interval": "infinitesimal jackknife"}))


def test_the_excess_of_one_set_over_another_is_a_record_of_its_own():
    """Grain that guidance adds, compared between two samplers: σ(5) − σ(1) here against there."""
    rng = np.random.default_rng(15)
    common = 9 * rng.normal(size=200)

    def excess(added):
        five, one = (record(common + added * w + 0.1 * rng.normal(size=200), w=w) for w in (5.0, 1.0))
        return minus(five, one, ("guidance",)), five, one

    more, five, one = excess(0.2)
    assert more["value"] == pytest.approx(0.8, abs=0.05)
    assert more["low"] < 0.8 < more["high"]
    np.testing.assert_allclose(influence(more), influence(five) - influence(one), atol=0.02)
    assert above((more, excess(0.1)[0])).outcome == HOLDS
    assert above((excess(0.1)[0], more)).outcome == FAILS
    with pytest.raises(NotComparable, match="guidance"):
        minus(five, one)


@pytest.mark.parametrize(("metric", "cut"), [("adherence", True), ("recall_judge", True), ("grain", False)])
def test_no_interval_reaches_beyond_what_a_share_can_be(metric, cut):
    """Of one training, of several, and of sets without seeds in common; a value that is no share has no such ends."""
    right = np.ones(20), np.append(np.ones(19), 0.0)
    high, low = (
        [record(x, training=k, metric=metric) for k, x in enumerate(of)] for of in (right, 1 - np.array(right))
    )
    bare = [{k: v for k, v in side[1].items() if k != "influence"} for side in (high, low)]
    for a, b in ((high[0], low[0]), (high, low), bare):
        assert bool(difference(a, b).interval()[2] == 1) is cut
        assert bool(difference(b, a).interval()[1] == -1) is cut
    assert bool(again(high[0], high)["again"]["high"] == 1) is cut
    assert bool(again(low[0], low)["again"]["low"] == 0) is cut


def test_a_record_of_some_images_is_that_of_their_mean():
    """Grain among the images that are readable with guidance and without."""
    each = np.random.default_rng(9).normal(size=100)
    rows = each > 0
    some = among(record(each), rows)
    assert some["low"] < some["value"] < some["high"]
    assert (some["value"], some["n"]) == (pytest.approx(each[rows].mean(), rel=1e-3), rows.sum())
    assert above((some, among(record(each - 1), rows))).outcome == HOLDS


@pytest.mark.parametrize(("factor", "outcome"), [(1.05, FAILS), (1.1, UNDECIDED), (1.2, HOLDS)])
def test_whether_a_value_is_above_so_many_times_another(factor, outcome):
    noise = np.random.default_rng(10).normal(size=(2, 200))
    a, b = (record(mean + 0.1 * (x - x.mean())) for mean, x in zip((10, 11), noise, strict=True))
    assert above((times(a, factor), b)).outcome == outcome
    np.testing.assert_allclose(influence(times(a, factor)), factor * influence(a))
    bare, scaled = (times({k: v for k, v in r.items() if k != "influence"}, 2.0) for r in (a, times(a, 0.5)))
    for field in ("value", "low", "high"):
        assert bare[field] == pytest.approx(2 * a[field])
        assert scaled[field] == pytest.approx(a[field])

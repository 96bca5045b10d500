"""Adherence to attributes: 1 where captions are followed, one half where they are ignored, and honest intervals."""

import numpy as np
import pytest
import torch

from guidebook.conditioning.grammar import CORE, MINOR, mentioned
from guidebook.config.datasets import ATTRIBUTES
from guidebook.config.params import load
from guidebook.data.drawn.faces import random_attributes
from guidebook.data.images import Split, packed, unpacked
from guidebook.metrics.attributes import FEWEST, balanced, difference, of_attributes
from guidebook.metrics.intervals import wilson
from guidebook.metrics.subject import Subject
from guidebook.runs.run import open_run

N = 600


@pytest.fixture
def run(runs):
    return open_run(load("celeba", "demo").replace(data={"limit": 30, "resolution": 8}))


def asked_for(attributes: torch.Tensor, **facts) -> Subject:
    """Samples that were asked to show attributes (N, 40)."""
    labels, n = packed(attributes), len(attributes)
    known = {"guidance": 1.0, "draw": facts, "n": n}
    return Subject("w1", lambda: Split(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), labels), known)


def by(records: list[dict], metric: str) -> dict:
    return {r.get("attribute"): r for r in records if r["metric"] == metric}


@pytest.fixture(scope="module")
def attributes():
    return random_attributes(N, 7)


def test_who_shows_all_that_was_asked_and_nothing_else_has_adherence_1(run, attributes):
    subject = asked_for(attributes)
    found = of_attributes(run, subject, subject.labels, "judge")
    assert [r["metric"] for r in found].count("adherence") == 1
    assert found[0]["metric"] == "adherence"
    assert (found[0]["value"], found[0]["low"], found[0]["high"]) == (1, 1, 1)
    for record in found[1:]:
        assert record["value"] == 1
        assert 0.7 < record["low"] < record["high"] == 1
    assert set(by(found, "obedience")) == set(by(found, "adherence_attribute")) > set(CORE)


def test_who_shows_the_opposite_has_adherence_0(run, attributes):
    found = of_attributes(run, asked_for(attributes), packed(~attributes), "judge")
    assert found[0]["value"] == 0
    assert all(r["value"] == -1 for r in by(found, "obedience").values())


@pytest.mark.parametrize("seen", ["others", "everything", "nothing"])
def test_who_ignores_the_caption_reaches_one_half_however_rare_an_attribute_is(run, attributes, seen):
    shown = {
        "others": random_attributes(N, 99),
        "everything": torch.ones(N, 40).bool(),
        "nothing": torch.zeros(N, 40).bool(),
    }[seen]
    found = of_attributes(run, asked_for(attributes), packed(shown), "judge")
    obedience, halves = by(found, "obedience"), by(found, "adherence_attribute")
    if seen != "others":
        assert found[0]["value"] == 0.5
        assert all(r["value"] == 0 for r in obedience.values())
    assert found[0]["low"] - 1e-9 <= 0.5 <= found[0]["high"] + 1e-9
    assert found[0]["value"] == pytest.approx(0.5, abs=0.03)
    outside = [name for name, r in obedience.items() if not r["low"] <= 0 <= r["high"]]
    assert len(outside) <= 6, outside  # of 40, at 95 %: seven or more in one of 300
    assert [r["low"] <= 0.5 <= r["high"] for r in halves.values()].count(False) == len(outside)


def test_a_share_of_followed_captions_is_what_is_said(run, attributes):
    """Samples that show what they were asked for in 7 of 10 cases, else another face's attributes."""
    rng = torch.Generator().manual_seed(0)
    follows = torch.rand(N, 1, generator=rng) < 0.7
    shown = torch.where(follows, attributes, random_attributes(N, 98))
    found = of_attributes(run, asked_for(attributes), packed(shown), "judge")
    assert found[0]["low"] < 0.85 < found[0]["high"]
    assert found[0]["high"] - found[0]["low"] < 0.06
    outside = [r for r in by(found, "obedience").values() if not r["low"] <= 0.7 <= r["high"]]
    assert len(outside) <= 6


def test_a_record_counts_those_asked_and_those_that_lack_it(run, attributes):
    subject, seed = asked_for(attributes), run.params.sample.seed
    told = unpacked(torch.tensor([mentioned(a, seed, i, 0) for i, a in enumerate(subject.labels.tolist())]), 40)
    assert (told & ~attributes).sum() == 0
    shown = random_attributes(N, 97)
    found = of_attributes(run, subject, packed(shown), "judge")
    for name, record in by(found, "obedience").items():
        i = ATTRIBUTES.index(name)
        assert record["n"] == int(told[:, i].sum() + (~attributes[:, i]).sum())
        yes, no = shown[told[:, i], i].double().mean(), shown[~attributes[:, i], i].double().mean()
        assert record["value"] == pytest.approx(float(yes - no), abs=1e-5)
        half = by(found, "adherence_attribute")[name]
        for field in ("value", "low", "high"):
            assert half[field] == pytest.approx((1 + record[field]) / 2, abs=2e-6)
    core = [by(found, "adherence_attribute")[name]["value"] for name in CORE]
    assert found[0]["value"] == pytest.approx(sum(core) / len(core), abs=1e-5)
    assert found[0]["extractor"] == "judge"
    assert found[0]["n"] == N


def test_an_attribute_that_captions_leave_out_at_times_counts_only_where_it_was_said(run, attributes):
    """A judge that sees a minor attribute exactly where the caption names it."""
    subject, seed = asked_for(attributes), run.params.sample.seed
    told = unpacked(torch.tensor([mentioned(a, seed, i, 0) for i, a in enumerate(subject.labels.tolist())]), 40)
    found = by(of_attributes(run, subject, packed(told), "judge"), "obedience")
    left_out = (attributes & ~told).any(0)
    assert left_out[[ATTRIBUTES.index(name) for name in MINOR]].sum() > 10
    assert all(found[name]["value"] == 1 for name in MINOR)


def test_of_a_caption_that_says_the_gender_alone_that_is_measured_as_of_one_that_says_more(run, attributes):
    plain, subject = run.variant("plain", data={"caption": "A {gender}"}), asked_for(attributes)
    seen = packed(random_attributes(N, 97))
    alone, among = (by(of_attributes(r, subject, seen, "judge"), "adherence_attribute") for r in (plain, run))
    assert set(alone) == {"Male"} < set(among)
    assert alone["Male"] == among["Male"]


def test_what_too_few_were_asked_for_is_not_measured(run):
    few = torch.zeros(60, 40, dtype=torch.bool)
    hat, glasses = ATTRIBUTES.index("Wearing_Hat"), ATTRIBUTES.index("Eyeglasses")
    few[:FEWEST, hat] = few[: FEWEST - 1, glasses] = True
    subject = asked_for(few)
    found = of_attributes(run, subject, subject.labels, "judge")
    assert set(by(found, "obedience")) == {"Wearing_Hat"}
    assert of_attributes(run, asked_for(few[FEWEST:]), subject.labels[FEWEST:], "judge") == []


def test_samples_of_a_prompt_of_their_own_have_none_of_these(run, attributes):
    for prompt in ("a man", ""):
        assert of_attributes(run, asked_for(attributes, prompt=prompt), packed(attributes), "judge") == []


# Newcombe 1998, table II: 56/70 − 48/80, and 9/10 − 3/10, method 10
@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 20), 0.6791, 1.0)],
)
def test_intervals_of_differences_are_the_published_ones(a, b, low, high):
    gap = difference(wilson(*a), wilson(*b))
    assert gap == pytest.approx((a[0] / a[1] - b[0] / b[1], low, high), abs=5e-5)
    mirrored = difference(wilson(*b), wilson(*a))
    assert mirrored == pytest.approx((-gap[0], -gap[2], -gap[1]), abs=1e-12)


@pytest.mark.parametrize(("n", "m", "p", "q"), [(30, 200, 0.8, 0.1), (15, 40, 0.5, 0.5), (60, 60, 0.95, 0.7)])
def test_intervals_of_differences_hold_the_truth_in_95_of_100_cases(n, m, p, q):
    rng = np.random.default_rng(0)
    yes, no = rng.binomial(n, p, 1500), rng.binomial(m, q, 1500)
    found = {
        (i, j): difference(wilson(i, n), wilson(j, m)) for i, j in set(zip(yes.tolist(), no.tolist(), strict=True))
    }
    held = [found[pair][1] <= p - q <= found[pair][2] for pair in zip(yes.tolist(), no.tolist(), strict=True)]
    assert 0.93 < np.mean(held) < 0.985


def test_the_interval_of_adherence_ends_at_0_and_at_1():
    asked = np.arange(40)[:, None] < 20
    wrong = np.arange(40)[:, None] == 0
    assert balanced(asked ^ wrong, asked, ~asked)[2] == 1
    assert balanced(~asked ^ wrong, asked, ~asked)[1] == 0


@pytest.mark.parametrize("n", [40, 400], ids=["an image left out", "blocks left out"])
def test_the_interval_of_adherence_holds_the_truth_in_95_of_100_cases(n):
    rng, held, widths, values = np.random.default_rng(0), [], [], []
    right, wrong = np.array([0.9, 0.7, 0.6, 0.95]), np.array([0.2, 0.05, 0.5, 0.3])
    truth = float(np.mean((right + 1 - wrong) / 2))
    for _ in range(300):
        asked = rng.random((n, 4)) < [0.5, 0.4, 0.6, 0.5]
        good = rng.random((n, 1)) < 0.5  # images are good or bad in all of their attributes at once
        lift = np.where(good, 0.05, -0.05)
        seen = rng.random((n, 4)) < np.where(asked, right + lift, wrong - lift)
        value, low, high = balanced(seen, asked, ~asked)
        held.append(low <= truth <= high)
        widths.append((high - low) / 2 / 1.96)
        values.append(value)
    assert 0.91 < np.mean(held) < 0.98
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / 300**0.5)
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.12)

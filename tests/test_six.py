"""A Fréchet distance of six images: known values, no favourite of two halves, verdicts that come out both ways."""

import copy
import json

import numpy as np
import pytest
import torch

from bench import six
from guidebook.config.datasets import DataError
from guidebook.metrics import few
from guidebook.metrics.frechet import Gaussian, frechet_of_few, gaussian, influences
from guidebook.metrics.weights import WeightsMissing
from guidebook.report import six as page


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The distance of few


@pytest.mark.parametrize("m", [6, 9, 40])  # below the width and above it
def test_few_are_as_far_from_each_other_as_by_the_gaussians_fitted_to_them(m):
    a, b = normal(7, 6, 20) @ normal(20, 20, seed=1), normal(7, m, 20, seed=2) * 3 + 1
    expected = [influences(x, gaussian(y))[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(frechet_of_few(a, b), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [6, 30])
def test_few_are_as_far_from_a_reference_as_one_by_one(n):
    a, reference = normal(5, n, 20) * 2, gaussian(normal(400, 20, seed=3) @ normal(20, 20, seed=4) + 1)
    np.testing.assert_allclose(frechet_of_few(a, reference), [influences(x, reference)[0] for x in a], rtol=1e-7)


def test_a_set_is_at_no_distance_from_itself_in_any_order_and_as_far_back_as_there():
    a, b = normal(4, 6, 50), normal(4, 6, 50, seed=1)
    np.testing.assert_allclose(frechet_of_few(a, a.flip(1)), 0, atol=1e-5)
    np.testing.assert_allclose(frechet_of_few(a, b), frechet_of_few(b, a), rtol=1e-7)
    assert frechet_of_few(a, b).min() > 50


# E d² = D σ² (2 + 1/n) − 2 σ E tr Σ₁^½, where n images in D ≫ n dimensions leave n − 1 eigenvalues near D σ² / (n − 1)
@pytest.mark.parametrize(("n", "scale"), [(6, 1.0), (6, 3.0), (3, 1.0)])
def test_a_few_of_a_gaussian_are_as_far_from_it_as_the_page_says(n, scale):
    d = 600
    reference = Gaussian(torch.zeros(d, dtype=torch.float64), scale * torch.eye(d, dtype=torch.float64), d * scale**2)
    found = frechet_of_few(scale * normal(400, n, d), reference).mean()
    assert float(found) == pytest.approx(scale**2 * (d * (2 + 1 / n) - 2 * (d * (n - 1)) ** 0.5), rel=0.003)


# Chance


def test_of_two_halves_of_one_set_neither_is_the_nearer_one():
    first, second = normal(2000, seed=5).exp(), normal(2000, seed=6).exp()
    there, back = six.fall(first, second), six.fall(second, first)
    assert there["n"] == 2000
    assert there["low"] < back["value"] < there["high"]
    assert six.fall(first, first)["value"] == 0
    assert six.fall(first, first * page.SECOND / page.FIRST * 0.999)["value"] == 1


def test_the_curve_of_ratios_meets_the_published_one_at_the_chance_of_such_a_fall():
    found = six.chance(normal(2000, seed=7).exp(), normal(2000, seed=8).exp())
    at = np.interp(page.SECOND / page.FIRST, found["ratios"], np.linspace(0, 1, 101))
    assert at == pytest.approx(found["fall"]["value"], abs=0.005)
    assert found["low"] < found["mean"] < found["high"]


def test_no_image_is_drawn_twice_into_the_sets_that_are_compared(monkeypatch):
    monkeypatch.setattr(few, "DRAWS", 50)
    rows = few.drawn(30, 18)
    assert rows.shape == (50, 18)
    assert all(len(set(row)) == 18 for row in rows.tolist())
    assert len({tuple(row) for row in rows.tolist()}) == 50


# The record and its page


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The record of few small drawn images, in two feature spaces of five."""

    def absent(error):
        def make(fit, params):
            raise error

        return make

    images = six.scenes.drawn(400, 5, 16)
    split = type("Split", (), {"images": images[0], "labels": images[1] * 2, "__len__": lambda self: 400})()
    for name, value in {
        "FITTED": 80, "POOL": 200, "COUNTS": (6, 20, 50, 200), "OFTEN": 20, "LARGE": 30, "WORSE": 60,
        "of_split": lambda name, split: [], "decoded": lambda *of: (split, [], 0), "FILE": tmp_path / "results" / "six.json",
    }.items():  # fmt: skip
        monkeypatch.setattr(six, name, value)
    monkeypatch.setattr(few, "DRAWS", 60)
    monkeypatch.setattr(page, "FILE", six.FILE)
    gone = {"judge": absent(DataError("no CIFAR-10")), "inception": absent(WeightsMissing("no file"))}
    kept = {"pca-64": six._components(10), "random": six.SPACES["random"]}
    monkeypatch.setattr(six, "SPACES", kept | gone)
    return six.six(None)


def test_what_cannot_be_read_is_left_out_with_its_reason_and_the_rest_is_measured(measured):
    assert measured["left_out"] == {"judge": "no CIFAR-10", "inception": "no file"}
    assert [s["name"] for s in measured["spaces"]] == ["pca-64", "random"]
    assert page.left_out(page.read()) == "classifier of CIFAR-10: no CIFAR-10; Inception: no file"
    made = measured["made"]
    assert made["fitted"] + made["pool"] + made["reference"] == made["images"] == 400


def test_the_bias_falls_as_images_are_added(measured):
    for space in measured["spaces"]:
        values = [p["value"] for p in space["curve"]]
        assert values == sorted(values, reverse=True)
        assert values[0] > 3 * values[-1]
        assert all(p["low"] <= p["value"] <= p["high"] for p in space["curve"])
        assert [p["sets"] for p in space["curve"]] == [60, 60, 4, 1]


def test_components_are_fitted_to_none_of_the_images_that_are_compared(measured, monkeypatch):
    seen = []
    monkeypatch.setattr(six, "SPACES", {"pca-64": lambda fit, params: seen.append(fit) or ("", lambda x: x.flatten(1))})
    monkeypatch.setattr(six, "of_space", lambda features, reference: seen.append(features[page.REAL]) or {})
    six.six(None)
    fit, pool = ({tuple(row) for row in x.flatten(1).tolist()} for x in seen)
    assert len(fit) == 80
    assert not fit & pool


def test_the_page_draws_every_space_and_escapes_nothing_it_does_not_have(measured):
    found = page.read()
    for draw in (page.ratios, page.curve, page.ranking):
        axes = draw(found).axes[0]
        assert axes.get_xlabel()
        assert len(axes.get_legend_handles_labels()[1]) == 2
    assert page.chances(found).text.count("<tr>") == 1 + 2 * 2
    assert page.models(found).text.count("<tr>") == 1 + 2 * 6
    assert "nan" not in page.models(found).text + page.chances(found).text + page.multiples(found)


def changed(found: dict, low: float, high: float, inception: bool) -> dict:
    """The record with every share between two values, and one space called Inception's or none."""
    found = copy.deepcopy(found)
    shares = {"value": (low + high) / 2, "low": low, "high": high, "n": 2000}
    for space in found["spaces"]:
        space["chance"] = {w: c | {"fall": shares} for w, c in space["chance"].items()}
        space["right"] = dict.fromkeys(space["right"], shares)
    if inception:
        found["spaces"][0]["name"] = "inception"
    return found


@pytest.mark.parametrize(
    ("low", "high", "inception", "significant", "apart"),
    [
        (0.01, 0.04, True, "holds", "does not hold"),
        (0.06, 0.2, True, "does not hold", "does not hold"),
        (0.04, 0.06, True, "undecided", "does not hold"),
        (0.06, 0.2, False, "undecided", "does not hold"),
        (0.96, 0.99, True, "does not hold", "holds"),
        (0.94, 0.99, True, "does not hold", "undecided"),
    ],
)
def test_verdicts_come_out_both_ways(measured, low, high, inception, significant, apart):
    found = changed(measured, low, high, inception)
    assert (page.significant(found)[1][0], page.apart(found)[1][0]) == (significant, apart)


@pytest.mark.parametrize(("side", "verdict"), [(32, "does not hold"), (64, "holds")])
def test_the_side_of_an_image_is_what_the_files_say(measured, side, verdict):
    measured["made"]["side"] = side
    text, (outcome, _) = page.side(measured)
    assert outcome == verdict
    assert f"{side} × {side}" in text


def test_one_space_that_disagrees_leaves_it_undecided(measured):
    found = changed(measured, 0.96, 0.99, False)
    found["spaces"][1]["right"]["six"] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2000}
    assert page.apart(found)[1][0] == "undecided"


def test_the_record_of_the_study_is_of_real_images_in_every_space_or_says_why_not():
    found = json.loads((page.RESULTS / "six-images.json").read_text())
    assert found["made"]["images"] > 9000
    assert {s["name"] for s in found["spaces"]} | set(found["left_out"]) == set(page.SPACES)

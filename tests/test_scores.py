"""Inception Score and CLIP score: the values that are known, and intervals that cover."""

import math

import numpy as np
import pytest
import torch

from guidebook.metrics.scores import clip_score, inception_score


def test_predictions_that_are_sure_and_spread_score_the_number_of_classes():
    value, low, high = inception_score(torch.eye(7).repeat(20, 1) * 1000)
    assert (value, low, high) == pytest.approx((7, 7, 7))


def test_predictions_that_say_nothing_score_one():
    assert inception_score(torch.randn(1, 7).repeat(50, 1)) == pytest.approx((1, 1, 1))
    assert inception_score(torch.eye(7)[:1].repeat(50, 1) * 1000) == pytest.approx((1, 1, 1))


def test_it_is_the_exponential_of_the_mean_divergence():
    p = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double().softmax(1).numpy()
    mean = p.mean(0)
    divergence = [sum(q[k] * math.log(q[k] / mean[k]) for k in range(5)) for q in p]
    assert inception_score(torch.from_numpy(p).log())[0] == pytest.approx(math.exp(np.mean(divergence)))


def test_its_interval_is_as_wide_as_the_score_scatters():
    rng = torch.Generator().manual_seed(1)
    found = [inception_score(torch.randn(400, 10, generator=rng) * 3) for _ in range(200)]
    scatter = np.std([v for v, _, _ in found])
    assert np.mean([(high - low) / 2 / 1.96 for _, low, high in found]) == pytest.approx(scatter, rel=0.2)


def test_clip_score_is_a_hundred_cosines_and_never_negative():
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    captions = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value, low, high = clip_score(images, captions)
    assert value == pytest.approx((100 + 60 + 0) / 3)
    assert low < value < high

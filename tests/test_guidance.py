"""Guidance: what it computes, what it costs, and that every way to write it is the same."""

import pytest
import torch

from guidebook.diffusion import scheduler
from guidebook.guidance import classifier_free
from guidebook.params import Diffusion

ABAR = scheduler(Diffusion(schedule="squaredcos_cap_v2", timesteps=1000)).alphas_cumprod.double()
B, L, D = 5, 2, 3
COND, UNCOND = torch.randn(2, B, L, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(B, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.tensor(400)


class Model:
    """Some prediction that depends on everything, and a list of what was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, cond):
        self.calls.append((x, t, cond))
        return torch.sin(x * cond.mean((1, 2))[:, None, None, None] + t / 1000)


def guided(w: float, model=None) -> torch.Tensor:
    return classifier_free(model or Model(), COND, UNCOND, w)(X, T)


@pytest.mark.parametrize(("w", "asked"), [(1, COND), (0, UNCOND), (1.0, COND), (0.0, UNCOND)])
def test_off_and_unconditional_cost_one_forward_of_the_batch(w, asked):
    model = Model()
    eps = guided(w, model)
    ((x, t, cond),) = model.calls
    assert torch.equal(x, X)
    assert t == T
    assert torch.equal(cond, asked)
    assert torch.equal(eps, Model()(X, T, asked))


@pytest.mark.parametrize("w", [0.5, 1.0001, 2, 5, 20])
def test_any_other_scale_costs_one_forward_of_twice_the_batch(w):
    model = Model()
    guided(w, model)
    ((x, _, cond),) = model.calls
    assert len(x) == len(cond) == 2 * B


def test_guidance_is_affine_in_w():
    at0, at1 = guided(0), guided(1)
    for w in (0.3, 2, 7.5, 20):
        torch.testing.assert_close(guided(w), at0 + w * (at1 - at0))


def test_it_goes_through_the_conditional_prediction_without_a_jump():
    torch.testing.assert_close(guided(1 + 1e-9), guided(1), rtol=0, atol=1e-8)
    torch.testing.assert_close(guided(1e-9), guided(0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("w", [0, 0.5, 1, 3, 10])
def test_the_three_ways_to_write_it_agree(w):
    eps_u, eps_c = Model()(X, T, UNCOND), Model()(X, T, COND)
    ho, sahu = w - 1, w - 1
    torch.testing.assert_close(guided(w), (1 + ho) * eps_c - ho * eps_u)
    torch.testing.assert_close(guided(w), eps_c + sahu * (eps_c - eps_u))


@pytest.mark.parametrize("w", [0.5, 3])
def test_with_the_null_caption_as_the_prompt_guidance_does_nothing(w):
    eps = classifier_free(Model(), UNCOND, UNCOND, w)(X, T)
    torch.testing.assert_close(eps, Model()(X, T, UNCOND))


# Two classes of images, N(m_c, s²) with equal shares, as captions of one number: what every score is, is known.
MEANS, S = torch.tensor([-0.5, 0.7], dtype=torch.float64), 0.2


def log_density(x: torch.Tensor, abar: torch.Tensor, label: int | None) -> torch.Tensor:
    """log p_t(x | c), or log p_t(x) of the mixture where there is no label, of each pixel."""
    variance = abar * S**2 + 1 - abar
    each = -((x[..., None] - abar.sqrt() * MEANS) ** 2) / (2 * variance) - 0.5 * torch.log(2 * torch.pi * variance)
    return torch.logsumexp(each, -1) - torch.log(torch.tensor(2.0)) if label is None else each[..., label]


def mixture(x, t, cond):
    """The best possible ε of the mixture; the captions are 0, 1 and, for none, 2."""
    abar = ABAR[t]
    variance = abar * S**2 + 1 - abar
    by_class = (1 - abar).sqrt() * (x[..., None] - abar.sqrt() * MEANS) / variance
    share = torch.softmax(-((x[..., None] - abar.sqrt() * MEANS) ** 2) / (2 * variance), -1)
    label = cond[:, 0, 0].long()[:, None, None, None]
    eps = torch.where(label == 0, by_class[..., 0], by_class[..., 1])
    return torch.where(label == 2, (share * by_class).sum(-1), eps)


@pytest.mark.parametrize("t", [20, 300, 800])
@pytest.mark.parametrize("w", [0, 0.5, 1, 2, 5, 20])
@pytest.mark.parametrize("label", [0, 1])
def test_on_a_mixture_it_is_the_score_of_the_sharpened_density(t, w, label):
    """ε̃ = −sqrt(1 − ᾱ) ∇ log [p(x)^{1−w} p(x | c)^w], the gradient taken by autograd."""
    cond, uncond = (torch.full((B, 1, 1), float(c)) for c in (label, 2))
    eps = classifier_free(mixture, cond, uncond, w)(X, torch.tensor(t))
    x, abar = X.clone().requires_grad_(), ABAR[t]
    aimed = (1 - w) * log_density(x, abar, None) + w * log_density(x, abar, label)
    (score,) = torch.autograd.grad(aimed.sum(), x)
    torch.testing.assert_close(eps, -(1 - abar).sqrt() * score)

"""Guidance: the answers of networks, each (x0, ε), combined into one.

One convention throughout: w = 1 is off (the conditional answer), w = 0 is unconditional; a function says so where it is another.
Ho & Salimans (2022) write w − 1 for our w. Whatever a network predicts, ε and x0 at one x are affine in it, so weighting two
answers by w and 1 − w is the same for all. Ways compose: an interval (`between`) and another network to be led away from (`against`,
autoguidance) go with each of them and are no rows. A new way is one function and one row in `WAYS` here, its name and settings in `config.sampling`
(`SETTINGS`, `Guiding`), and what it cannot be combined with there, in `sampling.spec` and in `config.params`; one with a network of its
own has a branch in `sampling.sampler`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guidebook.conditioning.condition import Condition
from guidebook.diffusion.objective import Network, Objective

# What x0 is clipped to in pixel space, images in [0, 1] included: diffusers' default, with which the published samples were drawn
RANGE = (-1.0, 1.0)
Answer = tuple[Tensor, Tensor]  # (x0, ε), each (B, C, H, W)
# (x (B, C, H, W), t ()) → (x0, ε) with x = a x0 + s ε, unless it says otherwise
Denoiser = Callable[[Tensor, Tensor], Answer]


@dataclass(frozen=True)
class Pair:
    """The two predictions of guidance: the one it leads towards and the one it leads away from."""

    positive: Denoiser
    negative: Denoiser
    both: Callable[[Tensor, Tensor], tuple[Answer, Answer]]  # the two at once
    objective: Objective


def denoiser(objective: Objective, net: Network, cond: Condition) -> Denoiser:
    """The answer of one network to one condition."""
    return lambda x, t: objective.split(objective(net, x, t, cond), x, t)


def conditional_or_not(objective: Objective, net: Network, cond: Condition, uncond: Condition) -> Pair:
    """One network with its condition and without: both cost one forward of twice the batch."""
    pair = denoiser(objective, net, cond.cat(uncond))

    def both(x: Tensor, t: Tensor) -> tuple[Answer, Answer]:
        x0, eps = pair(torch.cat([x, x]), t)
        (x0_pos, x0_neg), (eps_pos, eps_neg) = x0.chunk(2), eps.chunk(2)
        return (x0_pos, eps_pos), (x0_neg, eps_neg)

    return Pair(denoiser(objective, net, cond), denoiser(objective, net, uncond), both, objective)


# D_w = w D_1(x, c) + (1 − w) D_0(x, c)   (Karras et al. 2024, section 2, with the two models of section 4)
def good_and_bad(objective: Objective, net: Network, guide: Network, cond: Condition) -> Pair:
    """Autoguidance, away from a worse network that knows the condition too: less trained, smaller, or both."""
    good, bad = (denoiser(objective, n, cond) for n in (net, guide))
    return Pair(good, bad, lambda x, t: (good(x, t), bad(x, t)), objective)


# ỹ = y₋ + w (y₊ − y₋), y both x0 and ε   (Ho & Salimans 2022, eq. 6, with w for their 1 + w)
def linear(pair: Pair, w: float) -> Denoiser:
    """Classifier-free guidance where the negative is unconditional. w = 1 and w = 0 cost one answer."""
    if w in (0, 1):
        return pair.positive if w else pair.negative

    def guided(x: Tensor, t: Tensor) -> Answer:
        (x0, eps), (x0_neg, eps_neg) = pair.both(x, t)
        return x0_neg + w * (x0 - x0_neg), eps_neg + w * (eps - eps_neg)

    return guided


# F̃_φ = φ F̃ std(F₊) / std(F̃) + (1 − φ) F̃, F̃ = F₋ + w (F₊ − F₋)   (Lin et al. 2024, eq. 15 and 16)
def rescaled(pair: Pair, w: float, phi: float) -> Denoiser:
    """Guidance whose F has, for phi = 1, the deviation of the positive's, image by image; phi = 0 is plain.

    It rescales what the network predicts, in the paper v. For w = 0 unconditional only up to that factor.
    """
    if w == 1:
        return pair.positive

    def guided(x: Tensor, t: Tensor) -> Answer:
        out, out_neg = (pair.objective.predict(*answer, t) for answer in pair.both(x, t))
        mixed = out_neg + w * (out - out_neg)
        std, std_mixed = (f.std(dim=(1, 2, 3), keepdim=True) for f in (out, mixed))
        return pair.objective.split(phi * (mixed * std / std_mixed) + (1 - phi) * mixed, x, t)

    return guided


# x' = a' x̃0 + s' ε₋, x̃0 = x0₋ + w (x0₊ − x0₋)   (Chung et al. 2024, algorithm 2)
def cfg_plus_plus(pair: Pair, w: float) -> Denoiser:
    """CFG++: x0 guided, ε that of the negative, so x ≠ a x0 + s ε. For DDIM with η = 0.

    w is the paper's λ. w = 1 is not off: the image is the conditional one, the noise that is put back is not.
    """
    if w == 0:
        return pair.negative

    def guided(x: Tensor, t: Tensor) -> Answer:
        (x0, _), (x0_neg, eps_neg) = pair.both(x, t)
        return x0_neg + w * (x0 - x0_neg), eps_neg

    return guided


# Δ̄ = Δ + β Δ̄_before, Δ = x0₊ − x0₋;  Δ' = Δ̄ min(1, r / ‖Δ̄‖);  Δ' = Δ'_∥ + Δ'_⊥ along and across x0₊;
# x̃0 = x0₊ + (w − 1) (Δ'_⊥ + η Δ'_∥)   (Sadat et al. 2024, algorithm 1)
def projected(
    pair: Pair,
    w: float,
    eta: float,  # η, what is kept of the part along the image, which saturates it
    norm: float,  # r, the largest norm of the difference of an image
    momentum: float,  # β; below 0 it pushes away from where the steps before went
) -> Denoiser:
    """Adaptive projected guidance. It remembers the steps before: make one for each sampling, and call it once a step.

    Unconditional for w = 0 only with eta = 1, a norm that binds nowhere and no momentum.
    """
    if w == 1:
        return pair.positive
    average = 0

    def guided(x: Tensor, t: Tensor) -> Answer:
        nonlocal average
        (x0, _), (x0_neg, _) = pair.both(x, t)
        average = x0 - x0_neg + momentum * average
        length = torch.linalg.vector_norm(average, dim=(1, 2, 3), keepdim=True)
        difference = average * (norm / length).clamp(max=1)
        along = F.normalize(x0.flatten(1)).view_as(x)
        parallel = (difference * along).sum((1, 2, 3), keepdim=True) * along
        return with_noise(x0 + (w - 1) * (difference - parallel + eta * parallel), x, t, pair.objective)

    return guided


# ε̃ = ε₋ − γ s ∇ log p(c | x), x̃0 = x0₋ + γ s² / a ∇ log p(c | x)   (Dhariwal & Nichol 2021, algorithm 2, their s as γ)
def by_classifier(pair: Pair, w: float, log_prob: Callable[[Tensor, Tensor], Tensor]) -> Denoiser:
    """Guidance of the negative by the gradient of a classifier of noisy images, `log_prob` (x, t) → log p(c | x) (B,).

    w is γ: 0 is unconditional, and with p(c | x) ∝ p(x | c) / p(x) 1 is conditional. Costs one forward, and the classifier's
    way there and back. Noise alone, a = 0, is not guided.
    """
    if w == 0:
        return pair.negative

    def guided(x: Tensor, t: Tensor) -> Answer:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)
        (x0, eps), (a, s) = pair.negative(x, t), pair.objective.mix(t)
        gamma = torch.where(a > 0, w * s, 0)
        return x0 + gamma * s / torch.where(a > 0, a, 1) * gradient, eps - gamma * gradient

    return guided


# w(σ) = w where low < σ ≤ high, else 1   (Kynkäänniemi et al. 2024, section 3)
def between(inside: Denoiser, outside: Denoiser, objective: Objective, low: float, high: float) -> Denoiser:
    """Any guidance at some noise levels σ = s / a, another answer at the others."""

    def guided(x: Tensor, t: Tensor) -> Answer:
        a, s = objective.mix(t)
        return (inside if low * a < s <= high * a else outside)(x, t)

    return guided


def with_noise(x0: Tensor, x: Tensor, t: Tensor, objective: Objective) -> Answer:
    """An image with the noise ε = (x − a x0) / s that belongs to it."""
    a, s = objective.mix(t)
    return x0, (x - a * x0) / s


def clipped(denoise: Denoiser, objective: Objective, low: float, high: float, noise_follows: bool = True) -> Denoiser:
    """x0 clipped to a range; the noise follows it, else the way leads out of the range under strong guidance."""

    def guided(x: Tensor, t: Tensor) -> Answer:
        x0, eps = denoise(x, t)
        x0 = x0.clamp(low, high)
        return with_noise(x0, x, t, objective) if noise_follows else (x0, eps)

    return guided


WAYS: dict[str, Callable[..., Denoiser]] = {
    "linear": linear, "rescaled": rescaled, "cfg-plus-plus": cfg_plus_plus, "projected": projected, "classifier": by_classifier,
}  # fmt: skip


def guide(
    pair: Pair,
    guidance: Any,  # combine, w, between, settings(): `config.sampling.Guidance`
    limits: tuple[float, float] | None,  # what x0 is clipped to, for every way and every solver alike; None in latents
    **settings: Any,  # that no params file can hold: a classifier's log_prob
) -> Denoiser:
    """The denoiser of an entry of params, new for each sampling."""
    objective = pair.objective
    denoise = WAYS[guidance.combine](pair, guidance.w, **guidance.settings(), **settings)
    off = pair.negative if guidance.combine == "classifier" else pair.positive
    if limits:
        denoise = clipped(denoise, objective, *limits, noise_follows=guidance.combine != "cfg-plus-plus")
        off = clipped(off, objective, *limits)
    return between(denoise, off, objective, *guidance.between) if guidance.between else denoise

"""Guidance: how the predictions of a model become one that is guided.

One convention throughout: w = 1 is off (the conditional prediction), w = 0 is unconditional; a function says so where its
method is another. Ho & Salimans (2022) write w − 1 for our w. ε stands for what the model predicts, which may be v or x0 as well
(`Process.prediction`): given x_t each is affine in the others, so weighting two by w and 1 − w is one method for all.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from guidebook.diffusion.objective import Process

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x (B, C, H, W), t) → prediction (B, C, H, W)
Model = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (x, t, cond) → prediction


# ε̃ = ε(x, ∅) + w (ε(x, c) − ε(x, ∅))   (Ho & Salimans 2022, eq. 6, with w for their 1 + w)
def classifier_free(
    model: Model,
    cond: torch.Tensor,  # (B, L, D) embeddings of the captions
    uncond: torch.Tensor,  # (B, L, D) embeddings of the null caption
    w: float,
) -> Denoise:
    """The guided denoiser. Costs one forward per step for w = 1 and w = 0, else one of twice the batch."""
    if w == 1:
        return lambda x, t: model(x, t, cond)
    if w == 0:
        return lambda x, t: model(x, t, uncond)
    pair = _pair(model, cond, uncond)

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps_uncond, eps_cond = pair(x, t)
        return eps_uncond + w * (eps_cond - eps_uncond)

    return guided


# w(σ) = w where low < σ ≤ high, else 1   (Kynkäänniemi et al. 2024, section 3)
def interval(
    model: Model,
    cond: torch.Tensor,  # (B, L, D)
    uncond: torch.Tensor,  # (B, L, D)
    w: float,
    process: Process,
    low: float,  # in σ = s / a, the noise beside an image that is not shrunk
    high: float,
) -> Denoise:
    """Classifier-free guidance at some noise levels, the conditional prediction at the others, for one forward of B rows."""
    inside, outside = (classifier_free(model, cond, uncond, scale) for scale in (w, 1))

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = process.at(t)
        return inside(x, t) if low < s / a <= high else outside(x, t)

    return guided


# ε̃_φ = φ ε̃ std(ε(x, c)) / std(ε̃) + (1 − φ) ε̃, ε̃ of classifier-free guidance   (Lin et al. 2024, eq. 15 and 16)
def rescaled(model: Model, cond: torch.Tensor, uncond: torch.Tensor, w: float, phi: float) -> Denoise:
    """Guidance whose prediction has, for phi = 1, the deviation of the conditional one, image by image; phi = 0 is plain.

    It rescales whatever the model predicts, in the paper v. For w = 0 unconditional only up to that factor.
    """
    if w == 1:
        return classifier_free(model, cond, uncond, w)
    pair = _pair(model, cond, uncond)

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps_uncond, eps_cond = pair(x, t)
        eps = eps_uncond + w * (eps_cond - eps_uncond)
        std_cond, std = (e.std(dim=(1, 2, 3), keepdim=True) for e in (eps_cond, eps))
        return phi * (eps * std_cond / std) + (1 - phi) * eps

    return guided


# x' = a' x̃0 + s' ε(x, ∅), x̃0 = (x − s ε̃) / a, ε̃ of classifier-free guidance   (Chung et al. 2024, algorithm 2)
#    = a'/a x + (s' − a' s / a) ε(x, ∅) − (a' s / a) w (ε(x, c) − ε(x, ∅)), and with ε̃ in place of ε(x, ∅), DDIM's step,
#      it is a'/a x + (s' − a' s / a) ε̃: the same x' for w a' s / (a' s − a s') in place of w
def cfg_plus_plus(
    model: Model,
    cond: torch.Tensor,  # (B, L, D)
    uncond: torch.Tensor,  # (B, L, D)
    w: float,  # the paper's λ; w = 1 is not off: x0 is the conditional one, the noise put back is not
    process: Process,
    noise_scheduler,  # a DDIMScheduler: the one that will step, with its timesteps set before the first call
) -> Denoise:
    """CFG++, the image guided and the noise unconditional, written as the prediction that makes a DDIM step do this.

    Exact for DDIM with eta = 0 and without clipping, where every step lessens the noise. Raises ValueError for a scheduler
    of another kind, or one that clips: the scale grows with the number of steps, and clipping would take most of it away.
    """
    config = noise_scheduler.config
    from diffusers import DDIMScheduler

    if not isinstance(noise_scheduler, DDIMScheduler) or config.clip_sample or config.thresholding:
        raise ValueError(
            f"CFG++ needs a DDIMScheduler that does not clip, got a {type(noise_scheduler).__name__} with clip_sample = "
            f"{config.get('clip_sample')}; make it with DDIMScheduler.from_config(config, clip_sample=False)"
        )
    if w == 0:
        return classifier_free(model, cond, uncond, w)
    pair = _pair(model, cond, uncond)

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps_uncond, eps_cond = pair(x, t)
        (a, s), (a_next, s_next) = process.at(t), _next(noise_scheduler, t)
        return eps_uncond + w * a_next * s / (a_next * s - a * s_next) * (eps_cond - eps_uncond)

    return guided


# Δ̄ = Δ + β Δ̄_before, Δ = x0(x, c) − x0(x, ∅);  Δ' = Δ̄ min(1, r / ‖Δ̄‖);  Δ' = Δ'_∥ + Δ'_⊥ along and across x0(x, c);
# x̃0 = x0(x, c) + (w − 1) (Δ'_⊥ + η Δ'_∥)   (Sadat et al. 2024, algorithm 1)
def projected(
    model: Model,
    cond: torch.Tensor,  # (B, L, D)
    uncond: torch.Tensor,  # (B, L, D)
    w: float,
    process: Process,
    eta: float,  # η, what is kept of the part along the image, which saturates it
    norm: float,  # r, the largest norm of the difference of an image
    momentum: float,  # β; below 0 it pushes away from where the steps before went
) -> Denoise:
    """Adaptive projected guidance. It remembers the steps before: one closure for one sampling, and one call a step.

    Unconditional for w = 0 only with eta = 1, a norm that binds nowhere and no momentum.
    """
    if w == 1:
        return classifier_free(model, cond, uncond, w)
    pair, average = _pair(model, cond, uncond), 0

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal average
        x0_uncond, x0_cond = (process.x0(prediction, x, t) for prediction in pair(x, t))
        average = x0_cond - x0_uncond + momentum * average
        length = torch.linalg.vector_norm(average, dim=(1, 2, 3), keepdim=True)
        difference = average * (norm / length).clamp(max=1)
        along = F.normalize(x0_cond.flatten(1)).view_as(x)
        parallel = (difference * along).sum((1, 2, 3), keepdim=True) * along
        return process.predicted(x0_cond + (w - 1) * (difference - parallel + eta * parallel), x, t)

    return guided


# D_w = w D_1(x, c) + (1 − w) D_0(x, c)   (Karras et al. 2024, section 2, with the two models of section 4)
def autoguidance(model: Model, guide: Model, cond: torch.Tensor, w: float) -> Denoise:
    """Guidance away from a worse model: less trained, smaller, or both. w = 0 is the guide alone; both know the caption.

    Costs a forward of each per step, for w = 1 and w = 0 of one of them.
    """
    if w == 1:
        return lambda x, t: model(x, t, cond)
    if w == 0:
        return lambda x, t: guide(x, t, cond)

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        worse = guide(x, t, cond)
        return worse + w * (model(x, t, cond) - worse)

    return guided


# ε̃ = ε(x, ∅) − γ s ∇ log p(c | x)   (Dhariwal & Nichol 2021, algorithm 2 with an unconditional model and their s as γ)
def by_classifier(
    model: Model,
    uncond: torch.Tensor,  # (B, L, D)
    gamma: float,  # stands where w does: 0 is unconditional, and with p(c | x) ∝ p(x | c) / p(x) 1 is conditional
    process: Process,
    log_prob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],  # (x, t) → log p(c | x) (B,), differentiable in x
) -> Denoise:
    """Guidance by the gradient of a classifier of noisy images. Costs one forward, and the classifier's way there and back."""
    if gamma == 0:
        return lambda x, t: model(x, t, uncond)

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)
        a, s = process.at(t)
        # ε − γ s ∇ as v = (ε − s x) / a and x0 = (x − s ε) / a; noise alone, a = 0, says nothing of the class
        by_a = torch.where(a > 0, 1 / a, 0)
        factor = {"epsilon": -s, "v_prediction": -s * by_a, "sample": s**2 * by_a}[process.prediction]
        return model(x, t, uncond) + gamma * factor * gradient

    return guided


def _pair(model: Model, cond: torch.Tensor, uncond: torch.Tensor) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """(x, t) → the unconditional and the conditional prediction, from one forward of twice the batch."""
    both = torch.cat([uncond, cond])
    return lambda x, t: model(torch.cat([x, x]), t, both).chunk(2)


def _next(noise_scheduler, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a', s') where a DDIM step from timestep t ends."""
    to = int(t) - noise_scheduler.config.num_train_timesteps // noise_scheduler.num_inference_steps
    abar = noise_scheduler.alphas_cumprod[to] if to >= 0 else noise_scheduler.final_alpha_cumprod
    return abar.sqrt(), (1 - abar).sqrt()

"""Guidance: what it computes, what it costs, and that every way to write it is the same."""

import functools

import pytest
import torch
from diffusers import DDIMScheduler, guiders
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from guidebook.config.schema import VP
from guidebook.diffusion.guidance import (
    autoguidance,
    by_classifier,
    cfg_plus_plus,
    classifier_free,
    interval,
    projected,
    rescaled,
)
from guidebook.diffusion.objective import Process, scheduler

COSINE = VP(
    schedule="squaredcos_cap_v2", timesteps=1000, prediction="epsilon", min_snr_gamma=None, zero_terminal_snr=False
)
ABAR = scheduler(COSINE).alphas_cumprod.double()
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


def log_density(x: torch.Tensor, abar: torch.Tensor, label: int | None, sd: float = S) -> torch.Tensor:
    """log p_t(x | c), or log p_t(x) of the mixture where there is no label, of each pixel."""
    variance = abar * sd**2 + 1 - abar
    each = -((x[..., None] - abar.sqrt() * MEANS) ** 2) / (2 * variance) - 0.5 * torch.log(2 * torch.pi * variance)
    return torch.logsumexp(each, -1) - torch.log(torch.tensor(2.0)) if label is None else each[..., label]


def mixture(x, t, cond, sd: float = S):
    """The best possible ε of the mixture; the captions are 0, 1 and, for none, 2."""
    abar = ABAR[t]
    variance = abar * sd**2 + 1 - abar
    by_class = (1 - abar).sqrt() * (x[..., None] - abar.sqrt() * MEANS) / variance
    share = torch.softmax(-((x[..., None] - abar.sqrt() * MEANS) ** 2) / (2 * variance), -1)
    label = cond[:, 0, 0].long()[:, None, None, None]
    eps = torch.where(label == 0, by_class[..., 0], by_class[..., 1])
    return torch.where(label == 2, (share * by_class).sum(-1), eps)


def captions(label: int) -> torch.Tensor:
    return torch.full((B, 1, 1), float(label))


def sharpened(t: int, w: float, label: int | None) -> torch.Tensor:
    """ε̃ = −sqrt(1 − ᾱ) ∇ log [p(x)^{1−w} p(x | c)^w] at X, the gradient taken by autograd."""
    x, abar = X.clone().requires_grad_(), ABAR[t]
    aimed = (1 - w) * log_density(x, abar, None) + w * log_density(x, abar, label)
    (score,) = torch.autograd.grad(aimed.sum(), x)
    return -(1 - abar).sqrt() * score


@pytest.mark.parametrize("t", [20, 300, 800])
@pytest.mark.parametrize("w", [0, 0.5, 1, 2, 5, 20])
@pytest.mark.parametrize("label", [0, 1])
def test_on_a_mixture_it_is_the_score_of_the_sharpened_density(t, w, label):
    eps = classifier_free(mixture, captions(label), captions(2), w)(X, torch.tensor(t))
    torch.testing.assert_close(eps, sharpened(t, w, label))


# The other methods, for each quantity that a model may predict

PREDICTIONS = ["epsilon", "v_prediction", "sample"]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def saying(process: Process, eps_model=mixture):
    """A model that predicts what the process wants, from one that predicts ε."""

    def model(x, t, cond):
        (a, s), eps = process.at(t), eps_model(x, t, cond)
        return {"epsilon": eps, "v_prediction": (eps - s * x) / a, "sample": (x - s * eps) / a}[process.prediction]

    return model


def eps_of(process: Process, predicted: torch.Tensor, t: torch.Tensor, x: torch.Tensor = X) -> torch.Tensor:
    a, s = process.at(t)
    return (x - a * process.x0(predicted, x, t)) / s


def sigma(t: int) -> float:
    return ((1 - ABAR[t]).sqrt() / ABAR[t].sqrt()).item()


@every_prediction
@pytest.mark.parametrize(("low", "high", "inside"), [
    (20, 500, {300, 500}), (0, 300, {20, 300}), (300, 800, {500, 800}), (300, 300, set()),
])  # fmt: skip
def test_an_interval_has_the_sharpened_score_inside_and_the_conditional_one_outside(prediction, low, high, inside):
    """Its lower end, a noise level like its upper one, is outside."""
    process = Process(ABAR, prediction)
    denoise = interval(saying(process), captions(0), captions(2), 3.0, process, sigma(low), sigma(high))
    for t in (20, 300, 500, 800):
        eps = eps_of(process, denoise(X, torch.tensor(t)), torch.tensor(t))
        torch.testing.assert_close(eps, sharpened(t, 3.0 if t in inside else 1.0, 0), msg=f"t = {t}")


def test_noise_alone_is_outside_of_every_interval():
    process, model = Process(torch.tensor([0.5, 0.0], dtype=torch.float64), "v_prediction"), Model()
    predicted = interval(model, COND, UNCOND, 3.0, process, 0.0, 1e4)(X, torch.tensor(1))
    assert torch.equal(predicted, Model()(X, torch.tensor(1), COND))


def test_an_interval_is_diffusers_guidance_from_one_share_of_the_steps_to_another():
    noise, process = scheduler(COSINE, "ddim"), Process(ABAR, "epsilon")
    noise.set_timesteps(10)
    low, high = sigma(noise.timesteps[6]), sigma(noise.timesteps[2])
    ours = interval(Model(), COND, UNCOND, 3.0, process, low, high)
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=3.0, start=0.2, stop=0.6)
    for i, t in enumerate(noise.timesteps):
        theirs.set_state(step=i, num_inference_steps=10, timestep=t)
        torch.testing.assert_close(ours(X, t), theirs.forward(Model()(X, t, COND), Model()(X, t, UNCOND)).pred)


@every_prediction
@pytest.mark.parametrize("w", [0, 2, 5])
@pytest.mark.parametrize("phi", [0.3, 1])
def test_rescaled_guidance_has_the_mixed_deviation_and_the_direction_of_the_sharpened_score(prediction, w, phi):
    process, t = Process(ABAR, prediction), torch.tensor(300)
    says = {v: saying(process, lambda *_, v=v: sharpened(300, v, 0))(X, t, None).flatten(1) for v in (1, w)}
    predicted = rescaled(saying(process), captions(0), captions(2), w, phi)(X, t).flatten(1)
    torch.testing.assert_close(predicted.std(1), phi * says[1].std(1) + (1 - phi) * says[w].std(1))
    torch.testing.assert_close(torch.cosine_similarity(predicted, says[w]), torch.ones(B, dtype=torch.float64))


@pytest.mark.parametrize("w", [0, 0.5, 3])
@pytest.mark.parametrize("phi", [0.3, 0.7, 1])
def test_rescaled_guidance_is_that_of_diffusers(w, phi):
    eps_u, eps_c = Model()(X, T, UNCOND), Model()(X, T, COND)
    ours = rescaled(Model(), COND, UNCOND, w, phi)(X, T)
    torch.testing.assert_close(ours, rescale_noise_cfg(eps_u + w * (eps_c - eps_u), eps_c, phi))
    guider = guiders.ClassifierFreeGuidance(guidance_scale=w, guidance_rescale=phi)
    torch.testing.assert_close(ours, guider.forward(eps_c, eps_u).pred)


def ddim(diffusion: VP = COSINE, spacing: str = "leading", **settings) -> DDIMScheduler:
    """DDIM in double precision that clips nothing."""
    noise = DDIMScheduler.from_config(scheduler(diffusion, "ddim", spacing).config, clip_sample=False, **settings)
    noise.alphas_cumprod, noise.final_alpha_cumprod = noise.alphas_cumprod.double(), noise.final_alpha_cumprod.double()
    return noise


@pytest.mark.parametrize(("prediction", "terminal", "spacing", "settings"), [
    ("epsilon", False, "leading", {}), ("v_prediction", False, "leading", {}), ("sample", False, "trailing", {}),
    ("v_prediction", True, "trailing", {}), ("sample", True, "linspace", {}),
    ("epsilon", False, "leading", {"set_alpha_to_one": False, "steps_offset": 1}),  # ends with some noise left
])  # fmt: skip
@pytest.mark.parametrize("w", [0, 0.4, 1, 2])
def test_cfg_plus_plus_makes_ddim_guide_the_image_and_put_unconditional_noise_back(
    prediction, terminal, spacing, settings, w
):
    """Of every step along the path: x' = a' x̃0 + s' ε(x, ∅), where x0 is a number at noise alone too."""
    diffusion = COSINE.model_copy(update={"prediction": prediction, "zero_terminal_snr": terminal})
    noise = ddim(diffusion, spacing, **settings)
    noise.set_timesteps(7)
    process = Process(noise.alphas_cumprod, prediction)
    image = Model()  # what it says is taken for x0
    denoise = cfg_plus_plus(
        lambda x, t, cond: process.predicted(image(x, t, cond), x, t), COND, UNCOND, w, process, noise
    )
    x = X
    for t in noise.timesteps:
        found = noise.step(denoise(x, t), t, x).prev_sample
        a, s = process.at(t)
        before = t - 1000 // 7
        abar = noise.alphas_cumprod[before] if before >= 0 else noise.final_alpha_cumprod
        x0_u, x0_c = Model()(x, t, UNCOND), Model()(x, t, COND)
        x0, eps_u = x0_u + w * (x0_c - x0_u), (x - a * x0_u) / s
        x = abar.sqrt() * x0 + (1 - abar).sqrt() * eps_u
        torch.testing.assert_close(found, x, msg=f"t = {t}")


@every_prediction
@pytest.mark.parametrize("w", [0.6, 2])
def test_on_a_mixture_cfg_plus_plus_moves_by_two_scores(prediction, w):
    """x' from the sharpened score and, for the noise, the unconditional one; the last step is classifier-free guidance."""
    noise, process = ddim(prediction_type=prediction), Process(ABAR, prediction)
    noise.set_timesteps(10)
    denoise = cfg_plus_plus(saying(process), captions(1), captions(2), w, process, noise)
    for t in (800, 300):
        a, a_next = ABAR[t].sqrt(), ABAR[t - 100].sqrt()
        x0 = (X - (1 - ABAR[t]).sqrt() * sharpened(t, w, 1)) / a
        aimed = a_next * x0 + (1 - ABAR[t - 100]).sqrt() * sharpened(t, 0, None)
        torch.testing.assert_close(noise.step(denoise(X, torch.tensor(t)), t, X).prev_sample, aimed)
    last = torch.tensor(0)
    torch.testing.assert_close(eps_of(process, denoise(X, last), last), sharpened(0, w, 1))


@pytest.mark.parametrize("noise", [scheduler(COSINE, "ddim"), scheduler(COSINE, "ddpm"), scheduler(COSINE, "unipc")])
def test_cfg_plus_plus_refuses_a_scheduler_for_which_it_is_not_exact(noise):
    with pytest.raises(ValueError, match="does not clip"):
        cfg_plus_plus(Model(), COND, UNCOND, 0.6, Process(ABAR, "epsilon"), noise)


def images(process: Process, predicted: torch.Tensor, t: torch.Tensor = T) -> torch.Tensor:
    """What a prediction at X means, flat."""
    return process.x0(predicted, X, t).flatten(1)


FREE = {"eta": 1.0, "norm": 1e6, "momentum": 0.0}  # of projected guidance: what leaves guidance as it is


@every_prediction
@pytest.mark.parametrize("w", [0, 0.5, 3])
def test_without_eta_the_projected_difference_is_across_the_conditional_image(prediction, w):
    process = Process(ABAR, prediction)
    model = saying(process)
    pair = [images(process, model(X, T, captions(c))) for c in (0, 2)]
    (x0, x0_u), length = pair, pair[0].square().sum(1)
    share = {}
    for eta in (0.0, 0.25, 1.0):
        denoise = projected(model, captions(0), captions(2), w, process, **FREE | {"eta": eta})
        moved = images(process, denoise(X, T)) - x0
        share[eta] = (moved * x0).sum(1) / length
        across = moved - share[eta][:, None] * x0
        whole = (w - 1) * (x0 - x0_u)
        torch.testing.assert_close(across, whole - ((whole * x0).sum(1) / length)[:, None] * x0)
    assert share[1.0].abs().min() > 1e-3
    torch.testing.assert_close(share[0.0], torch.zeros_like(share[0.0]))
    torch.testing.assert_close(share[0.25], share[1.0] / 4)


@every_prediction
def test_the_projected_difference_is_cut_to_the_norm_image_by_image(prediction):
    process, w = Process(ABAR, prediction), 3.0
    model = saying(process)
    x0, x0_u = (images(process, model(X, T, captions(c))) for c in (0, 2))
    lengths = (x0 - x0_u).norm(dim=1)
    norm = lengths.median().item()
    assert lengths.min() < 0.99 * norm
    assert lengths.max() > 1.01 * norm
    denoise = projected(model, captions(0), captions(2), w, process, **FREE | {"norm": norm})
    moved = images(process, denoise(X, T)) - x0
    torch.testing.assert_close(moved.norm(dim=1), (w - 1) * lengths.clamp(max=norm))
    torch.testing.assert_close(torch.cosine_similarity(moved, x0 - x0_u), torch.ones_like(lengths))


@every_prediction
@pytest.mark.parametrize("momentum", [-0.5, 0.3])
def test_the_projected_difference_remembers_the_steps_before(prediction, momentum):
    """After n steps it is Σ β^k Δ_{n−k}, and a new closure has forgotten it."""
    process, w, steps = Process(ABAR, prediction), 3.0, [torch.tensor(t) for t in (800, 500, 300, 100)]
    model = saying(process)
    start = functools.partial(projected, model, captions(0), captions(2), w, process, **FREE | {"momentum": momentum})
    denoise, differences = start(), []
    for t in steps:
        x0, x0_u = (images(process, model(X, t, captions(c)), t) for c in (0, 2))
        differences.append(x0 - x0_u)
        remembered = sum(momentum**k * d for k, d in enumerate(reversed(differences)))
        torch.testing.assert_close(images(process, denoise(X, t), t), x0 + (w - 1) * remembered)
    torch.testing.assert_close(images(process, start()(X, t), t), x0 + (w - 1) * differences[-1])


@every_prediction
@pytest.mark.parametrize("settings", [
    {"eta": 0.0, "norm": 2.5, "momentum": -0.5}, {"eta": 0.3, "norm": 0.4, "momentum": 0.0},
    {"eta": 1.0, "norm": 1.0, "momentum": 0.4},
])  # fmt: skip
@pytest.mark.parametrize("w", [0, 3, 10])
def test_projected_guidance_is_that_of_diffusers_for_images(prediction, settings, w):
    """Theirs is the paper's in the original formulation, with the paper's w − 1 as its scale."""
    process = Process(ABAR, prediction)
    model = saying(process)
    ours = projected(model, captions(0), captions(2), w, process, **settings)
    theirs = guiders.AdaptiveProjectedGuidance(
        guidance_scale=w - 1, adaptive_projected_guidance_momentum=settings["momentum"], eta=settings["eta"],
        adaptive_projected_guidance_rescale=settings["norm"], use_original_formulation=True,
    )  # fmt: skip
    theirs.set_state(step=0, num_inference_steps=3, timestep=None)
    theirs.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(settings["momentum"])
    for t in map(torch.tensor, (700, 400, 200)):
        x0, x0_u = (process.x0(model(X, t, captions(c)), X, t) for c in (0, 2))
        torch.testing.assert_close(process.x0(ours(X, t), X, t), theirs.forward(x0, x0_u).pred)


@every_prediction
@pytest.mark.parametrize("w", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("t", [20, 300, 800])
def test_autoguidance_has_the_score_of_the_model_to_the_w_over_the_guide_to_the_w_less_one(prediction, w, t):
    """log p_model^w p_guide^{1−w}, the guide being a model that has learnt each class too broad."""
    process, x = Process(ABAR, prediction), X.clone().requires_grad_()
    aimed = w * log_density(x, ABAR[t], 1) + (1 - w) * log_density(x, ABAR[t], 1, 2 * S)
    (score,) = torch.autograd.grad(aimed.sum(), x)
    guide = saying(process, functools.partial(mixture, sd=2 * S))
    predicted = autoguidance(saying(process), guide, captions(1), w)(X, torch.tensor(t))
    torch.testing.assert_close(eps_of(process, predicted, torch.tensor(t)), -(1 - ABAR[t]).sqrt() * score)


@pytest.mark.parametrize("w", [0, 0.5, 1, 3])
def test_autoguidance_is_that_of_diffusers(w):
    """Theirs makes the guide by leaving out layers; its prediction takes the place of the unconditional one."""
    good, bad = Model(), lambda x, t, cond: Model()(x, t, cond / 2)
    theirs = guiders.AutoGuidance(guidance_scale=w, auto_guidance_layers=[0], dropout=0.1)
    ours = autoguidance(good, bad, COND, w)(X, T)
    torch.testing.assert_close(ours, theirs.forward(good(X, T, COND), bad(X, T, COND)).pred)


def posterior(label: int):
    """log p(c | x) up to a constant: log p(x | c) − log p(x)."""

    def log_prob(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (log_density(x, ABAR[t], label) - log_density(x, ABAR[t], None)).sum((1, 2, 3))

    return log_prob


@every_prediction
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 3, 10])
@pytest.mark.parametrize("t", [20, 300, 800])
def test_guidance_by_the_exact_classifier_is_classifier_free_guidance(prediction, gamma, t):
    """p(c | x) ∝ p(x | c) / p(x), so p(x) p(c | x)^γ ∝ p(x)^{1−γ} p(x | c)^γ. Sampling takes no gradients, this does."""
    process = Process(ABAR, prediction)
    with torch.no_grad():
        denoise = by_classifier(saying(process), captions(2), gamma, process, posterior(1))
        predicted = denoise(X, torch.tensor(t))
    assert not predicted.requires_grad
    torch.testing.assert_close(eps_of(process, predicted, torch.tensor(t)), sharpened(t, gamma, 1))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_noise_alone_is_not_guided_by_a_classifier(prediction):
    process = Process(torch.tensor([0.5, 0.0], dtype=torch.float64), prediction)
    denoise = by_classifier(Model(), UNCOND, 3.0, process, lambda x, t: x.square().sum((1, 2, 3)))
    assert torch.equal(denoise(X, torch.tensor(1)), Model()(X, torch.tensor(1), UNCOND))
    assert not torch.allclose(denoise(X, torch.tensor(0)), Model()(X, torch.tensor(0), UNCOND))


@every_prediction
@pytest.mark.parametrize("w", [0, 0.5, 1, 3])
def test_each_method_with_nothing_of_its_own_is_classifier_free_guidance(prediction, w):
    process, model, asked = Process(ABAR, prediction), Model(), (COND, UNCOND, w)
    plain = classifier_free(model, *asked)(X, T)
    torch.testing.assert_close(interval(model, *asked, process, 0.0, 1e4)(X, T), plain)
    torch.testing.assert_close(rescaled(model, *asked, 0.0)(X, T), plain)
    torch.testing.assert_close(projected(model, *asked, process, **FREE)(X, T), plain)

    def guide(x, t, cond):
        return model(x, t, UNCOND)

    torch.testing.assert_close(autoguidance(model, guide, COND, w)(X, T), plain)


METHODS = {
    "interval": lambda model, w, process: interval(model, COND, UNCOND, w, process, 0.0, 1e4),
    "outside": lambda model, w, process: interval(model, COND, UNCOND, w, process, 0.0, 1e-3),
    "rescaled": lambda model, w, process: rescaled(model, COND, UNCOND, w, 0.7),
    "projected": lambda model, w, process: projected(model, COND, UNCOND, w, process, 0.0, 2.5, -0.5),
    "cfg-plus-plus": lambda model, w, process: cfg_plus_plus(model, COND, UNCOND, w, process, NOISE),
    "classifier": lambda model, w, process: by_classifier(model, UNCOND, w, process, lambda x, t: x.sum((1, 2, 3))),
}
NOISE = ddim()
NOISE.set_timesteps(10)


@every_prediction
@pytest.mark.parametrize("name", ["interval", "outside", "rescaled", "projected"])
def test_off_is_the_conditional_prediction_for_one_forward_of_the_batch(name, prediction):
    model = Model()
    predicted = METHODS[name](model, 1.0, Process(ABAR, prediction))(X, T)
    ((x, _, cond),) = model.calls
    assert len(x) == B
    assert torch.equal(cond, COND)
    assert torch.equal(predicted, Model()(X, T, COND))


@every_prediction
@pytest.mark.parametrize("name", ["interval", "cfg-plus-plus", "classifier"])
def test_zero_is_the_unconditional_prediction_for_one_forward_of_the_batch(name, prediction):
    model = Model()
    predicted = METHODS[name](model, 0.0, Process(ABAR, prediction))(X, T)
    ((x, _, cond),) = model.calls
    assert len(x) == B
    assert torch.equal(cond, UNCOND)
    assert torch.equal(predicted, Model()(X, T, UNCOND))


@pytest.mark.parametrize(("name", "rows"), [
    ("interval", 2), ("outside", 1), ("rescaled", 2), ("projected", 2), ("cfg-plus-plus", 2), ("classifier", 1),
])  # fmt: skip
def test_a_guided_step_costs_one_forward(name, rows):
    model = Model()
    denoise = METHODS[name](model, 3.0, Process(ABAR, "epsilon"))
    for _ in range(3):
        denoise(X, T)
    assert [(len(x), len(cond)) for x, _, cond in model.calls] == [(rows * B, rows * B)] * 3


@pytest.mark.parametrize(("w", "asked"), [(0, (0, 1)), (1, (1, 0)), (0.5, (1, 1)), (3, (1, 1))])
def test_autoguidance_asks_each_model_at_most_once_and_always_with_the_caption(w, asked):
    model, guide = Model(), Model()
    autoguidance(model, guide, COND, w)(X, T)
    assert (len(model.calls), len(guide.calls)) == asked
    for x, _, cond in model.calls + guide.calls:
        assert len(x) == B
        assert torch.equal(cond, COND)


@pytest.mark.parametrize(("gamma", "asked"), [(0, 0), (1, 1), (3, 1)])
def test_the_classifier_is_asked_once_where_it_guides(gamma, asked):
    seen = []

    def log_prob(x, t):
        seen.append(x)
        return x.sum((1, 2, 3))

    x = X.clone()
    by_classifier(Model(), UNCOND, gamma, Process(ABAR, "epsilon"), log_prob)(x, T)
    assert [len(x) for x in seen] == [B] * asked
    assert not x.requires_grad

"""Guidance: what it computes, what it costs, and that every way to write it is the same."""

import functools

import pytest
import torch
from diffusers import guiders
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from guidebook.conditioning.condition import Condition
from guidebook.config.sampling import Guidance
from guidebook.diffusion.guidance import (
    Pair,
    between,
    by_classifier,
    cfg_plus_plus,
    clipped,
    conditional_or_not,
    denoiser,
    good_and_bad,
    guide,
    linear,
    projected,
    rescaled,
)
from guidebook.diffusion.objective import Objective, alphas_cumprod, edm, rectified_flow, vp
from guidebook.diffusion.solvers import ddim

ABAR = alphas_cumprod("squaredcos_cap_v2", 1000).double()
B, L, D = 5, 2, 3
COND, UNCOND = (
    Condition(tokens=x)
    for x in torch.randn(2, B, L, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
)
X = torch.randn(B, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.tensor(400)
EPS = vp(ABAR, "epsilon")
ROWS = {p: vp(ABAR, p) for p in ("epsilon", "v_prediction", "sample")} | {"flow": rectified_flow(), "edm": edm()}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


class Model:
    """Some prediction that depends on everything, and a list of its inputs."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, cond):
        self.calls.append((x, t, cond))
        return torch.sin(x * cond.tokens.mean((1, 2))[:, None, None, None] + t[:, None, None, None] / 1000)


def pair_of(model, row: Objective = EPS, cond=COND, uncond=UNCOND) -> Pair:
    return conditional_or_not(row, model, cond, uncond)


def out(model, cond, t=T, x=X):
    """What a model predicts."""
    return model(x, t.expand(len(x)), cond)


def time(row: Objective, t: int) -> torch.Tensor:
    """The time of a row at which its σ is that of timestep t of the cosine schedule."""
    return torch.tensor(t) if row.timesteps else row.time_of(torch.tensor(sigma(t), dtype=torch.float64))


def sigma(t: int) -> float:
    return ((1 - ABAR[t]).sqrt() / ABAR[t].sqrt()).item()


# Classifier-free guidance


@pytest.mark.parametrize(("w", "asked"), [(1, COND), (0, UNCOND), (1.0, COND), (0.0, UNCOND)])
def test_off_and_unconditional_cost_one_forward_of_the_batch(w, asked):
    model = Model()
    _, eps = linear(pair_of(model), w)(X, T)
    ((x, t, cond),) = model.calls
    assert torch.equal(x, X)
    assert t.tolist() == [T] * B
    assert cond is asked
    torch.testing.assert_close(eps, out(Model(), asked))


@pytest.mark.parametrize("w", [0.5, 1.0001, 2, 5, 20])
def test_any_other_scale_costs_one_forward_of_twice_the_batch(w):
    model = Model()
    linear(pair_of(model), w)(X, T)
    ((x, t, cond),) = model.calls
    assert len(x) == len(t) == len(cond.tokens) == 2 * B


@every_row
@pytest.mark.parametrize("w", [0, 0.5, 1, 3, 10])
def test_the_ways_to_write_it_agree_for_whatever_is_predicted(row, w):
    """Of F, as Ho & Salimans with w − 1 for our w, and of (x0, ε), which stay those of x."""
    t = time(row, 400)
    x0, eps = linear(pair_of(Model(), row), w)(X, t)
    # EDM scales its input and has a time of its own
    out_u, out_c = (row(Model(), X, t, cond) for cond in (UNCOND, COND))
    torch.testing.assert_close(row.predict(x0, eps, t), (1 + w - 1) * out_c - (w - 1) * out_u)
    torch.testing.assert_close(row.add_noise(x0, eps, t), X)


def test_it_goes_through_the_conditional_prediction_without_a_jump():
    for w in (0, 1):
        near, at = (linear(pair_of(Model()), s)(X, T)[1] for s in (w + 1e-9, w))
        torch.testing.assert_close(near, at, rtol=0, atol=1e-8)


@pytest.mark.parametrize("w", [0.5, 3])
def test_with_the_null_caption_as_the_prompt_guidance_does_nothing(w):
    _, eps = linear(pair_of(Model(), cond=UNCOND), w)(X, T)
    torch.testing.assert_close(eps, out(Model(), UNCOND))


# Two classes of images, N(m_c, s²) with equal shares, as captions of one number: what every score is, is known.
MEANS, S = torch.tensor([-0.5, 0.7], dtype=torch.float64), 0.2


def log_density(x: torch.Tensor, abar: torch.Tensor, label: int | None, sd: float = S) -> torch.Tensor:
    """log p_t(x | c), or log p_t(x) of the mixture where there is no label, of each pixel."""
    variance = abar * sd**2 + 1 - abar
    each = -((x[..., None] - abar.sqrt() * MEANS) ** 2) / (2 * variance) - 0.5 * torch.log(2 * torch.pi * variance)
    return torch.logsumexp(each, -1) - torch.log(torch.tensor(2.0)) if label is None else each[..., label]


def mixture(row: Objective, sd: float = S):
    """The best possible network of the mixture on any path; the captions are 0, 1 and, for none, 2."""

    def net(x, t, cond):
        t, x = TIMES[row], x if row.scale is None else x / row.scale(TIMES[row])
        a, s = row.mix(t)
        variance = a**2 * sd**2 + s**2
        by_class = s * (x[..., None] - a * MEANS) / variance
        share = torch.softmax(-((x[..., None] - a * MEANS) ** 2) / (2 * variance), -1)
        label = cond.tokens[:, 0, 0].long()[:, None, None, None]
        eps = torch.where(label == 0, by_class[..., 0], by_class[..., 1])
        eps = torch.where(label == 2, (share * by_class).sum(-1), eps)
        return row.predict((x - s * eps) / a, eps, t)

    return net


TIMES = {}  # the time that a row is at: what the network of EDM is given says it otherwise


def at(row: Objective, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """X on the path of a row, and its time there: of the same σ, so of the same image and noise, as on the cosine one."""
    TIMES[row] = time(row, t)
    a, s = row.mix(TIMES[row])
    return X * (a**2 + s**2).sqrt(), TIMES[row]


def captions(label: int) -> Condition:
    return Condition(tokens=torch.full((B, 1, 1), float(label), dtype=torch.float64))


def aimed(row: Objective, label: int = 0, sd: float = S) -> Pair:
    return pair_of(mixture(row, sd), row, captions(label), captions(2))


def sharpened(t: int, w: float, label: int | None) -> torch.Tensor:
    """ε̃ = −sqrt(1 − ᾱ) ∇ log [p(x)^{1−w} p(x | c)^w] at X, the gradient taken by autograd."""
    x, abar = X.clone().requires_grad_(), ABAR[t]
    density = (1 - w) * log_density(x, abar, None) + w * log_density(x, abar, label)
    (score,) = torch.autograd.grad(density.sum(), x)
    return -(1 - abar).sqrt() * score


@every_row
@pytest.mark.parametrize("t", [20, 300, 800])
@pytest.mark.parametrize("w", [0, 0.5, 1, 5, 20])
@pytest.mark.parametrize("label", [0, 1])
def test_on_a_mixture_it_is_the_score_of_the_sharpened_density(row, t, w, label):
    x, at_t = at(row, t)
    _, eps = linear(aimed(row, label), w)(x, at_t)
    torch.testing.assert_close(eps, sharpened(t, w, label), rtol=1e-6, atol=1e-6)


# Intervals, of any way to guide


@every_row
@pytest.mark.parametrize(("low", "high", "inside"), [
    (20, 500, {300, 500}), (0, 300, {20, 300}), (300, 800, {500, 800}), (300, 300, set()),
])  # fmt: skip
def test_an_interval_has_the_sharpened_score_inside_and_the_conditional_one_outside(row, low, high, inside):
    """Its lower end, a noise level like its upper one, is outside."""
    pair = aimed(row)
    shift = 0.0 if row is EPS else 1e-9  # a σ that is computed in two ways is equal but for rounding
    denoise = between(linear(pair, 3.0), pair.positive, row, sigma(low) * (1 + shift), sigma(high) * (1 + shift))
    for t in (20, 300, 500, 800):
        _, eps = denoise(*at(row, t))
        aim = sharpened(t, 3.0 if t in inside else 1.0, 0)
        torch.testing.assert_close(eps, aim, rtol=1e-6, atol=1e-6, msg=f"t = {t}")


def test_noise_alone_is_outside_of_every_interval():
    row, model = vp(torch.tensor([0.5, 0.0], dtype=torch.float64), "v_prediction"), Model()
    pair = pair_of(model, row)
    found = between(linear(pair, 3.0), pair.positive, row, 0.0, 1e4)(X, torch.tensor(1))
    torch.testing.assert_close(found, pair.positive(X, torch.tensor(1)))


def test_an_interval_is_diffusers_guidance_from_one_share_of_the_steps_to_another():
    grid = torch.arange(900, -1, -100)
    pair = pair_of(Model())
    ours = between(linear(pair, 3.0), pair.positive, EPS, sigma(grid[6]), sigma(grid[2]))
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=3.0, start=0.2, stop=0.6)
    for i, t in enumerate(grid):
        theirs.set_state(step=i, num_inference_steps=10, timestep=t)
        their = theirs.forward(out(Model(), COND, t), out(Model(), UNCOND, t)).pred
        torch.testing.assert_close(ours(X, t)[1], their)


# Rescaled guidance


@every_row
@pytest.mark.parametrize("w", [0, 2, 5])
@pytest.mark.parametrize("phi", [0.3, 1])
def test_rescaled_guidance_has_the_mixed_deviation_and_the_direction_of_plain_guidance(row, w, phi):
    (x, t), pair = at(row, 300), aimed(row)
    says = {v: row.predict(*linear(pair, v)(x, t), t).flatten(1) for v in (1, w)}
    found = row.predict(*rescaled(pair, w, phi)(x, t), t).flatten(1)
    torch.testing.assert_close(found.std(1), phi * says[1].std(1) + (1 - phi) * says[w].std(1))
    torch.testing.assert_close(torch.cosine_similarity(found, says[w]), torch.ones(B, dtype=torch.float64))


@pytest.mark.parametrize("w", [0, 0.5, 3])
@pytest.mark.parametrize("phi", [0.3, 0.7, 1])
def test_rescaled_guidance_is_that_of_diffusers(w, phi):
    eps_u, eps_c = out(Model(), UNCOND), out(Model(), COND)
    _, ours = rescaled(pair_of(Model()), w, phi)(X, T)
    torch.testing.assert_close(ours, rescale_noise_cfg(eps_u + w * (eps_c - eps_u), eps_c, phi))
    guider = guiders.ClassifierFreeGuidance(guidance_scale=w, guidance_rescale=phi)
    torch.testing.assert_close(ours, guider.forward(eps_c, eps_u).pred)


# CFG++


@every_row
@pytest.mark.parametrize("w", [0, 0.4, 1, 2])
def test_cfg_plus_plus_guides_the_image_and_puts_unconditional_noise_back(row, w):
    """Of a step of DDIM: x' = a' x̃0 + s' ε(x, ∅)   (Chung et al. 2024, algorithm 2)"""
    (x, t), pair = at(row, 800), aimed(row, 1)
    (x0, _), (x0_u, eps_u) = pair.both(x, t)
    times = torch.stack([t.double(), time(row, 300).double()])
    a, s = row.mix(times[1])
    ((_, ours),) = ddim(lambda x, _: cfg_plus_plus(pair, w)(x, t), x, times, row)
    torch.testing.assert_close(ours, a * (x0_u + w * (x0 - x0_u)) + s * eps_u)


@every_row
@pytest.mark.parametrize("w", [0.3, 0.6, 1])
@pytest.mark.parametrize(("t", "to"), [(950, 900), (800, 300), (300, 20)])
def test_without_a_clip_a_step_of_cfg_plus_plus_is_plain_guidance_of_a_scale_that_its_noise_levels_give(row, w, t, to):
    """w_t = λ / (1 − σ'/σ); with one it is not."""
    (x, _), pair = at(row, t), aimed(row, 1)
    times = torch.stack([TIMES[row].double(), time(row, to).double()])

    def step(denoise):
        ((_, found),) = ddim(lambda x, _: denoise(x, TIMES[row]), x, times, row)
        return found

    plain = linear(pair, w / (1 - sigma(to) / sigma(t)))
    torch.testing.assert_close(step(cfg_plus_plus(pair, w)), step(plain), rtol=1e-6, atol=1e-9)
    bounded = (clipped(d, row, -0.1, 0.1, noise_follows=d is plain) for d in (cfg_plus_plus(pair, w), plain))
    one, other = map(step, bounded)
    assert (one - other).abs().max() > 1e-3


# Projected guidance


FREE = {"eta": 1.0, "norm": 1e6, "momentum": 0.0}  # of projected guidance: what leaves guidance as it is


@every_row
@pytest.mark.parametrize("w", [0, 0.5, 3])
def test_without_eta_the_projected_difference_is_across_the_conditional_image(row, w):
    (x, t), pair = at(row, 400), aimed(row)
    x0, x0_u = (answer[0].flatten(1) for answer in pair.both(x, t))
    length, share = x0.square().sum(1), {}
    for eta in (0.0, 0.25, 1.0):
        moved = projected(pair, w, **FREE | {"eta": eta})(x, t)[0].flatten(1) - x0
        share[eta] = (moved * x0).sum(1) / length
        across = moved - share[eta][:, None] * x0
        whole = (w - 1) * (x0 - x0_u)
        torch.testing.assert_close(across, whole - ((whole * x0).sum(1) / length)[:, None] * x0)
    assert share[1.0].abs().min() > 1e-3
    torch.testing.assert_close(share[0.0], torch.zeros_like(share[0.0]))
    torch.testing.assert_close(share[0.25], share[1.0] / 4)


def test_the_projected_difference_is_cut_to_the_norm_image_by_image():
    (x, t), pair, w = at(EPS, 400), aimed(EPS), 3.0
    x0, x0_u = (answer[0].flatten(1) for answer in pair.both(x, t))
    lengths = (x0 - x0_u).norm(dim=1)
    norm = lengths.median().item()
    assert lengths.min() < 0.99 * norm
    assert lengths.max() > 1.01 * norm
    moved = projected(pair, w, **FREE | {"norm": norm})(x, t)[0].flatten(1) - x0
    torch.testing.assert_close(moved.norm(dim=1), (w - 1) * lengths.clamp(max=norm))
    torch.testing.assert_close(torch.cosine_similarity(moved, x0 - x0_u), torch.ones_like(lengths))


@pytest.mark.parametrize("momentum", [-0.5, 0.3])
def test_the_projected_difference_remembers_the_steps_before(momentum):
    """After n steps it is Σ β^k Δ_{n−k}, and a new one has forgotten it."""
    w, pair, differences = 3.0, aimed(EPS), []
    start = functools.partial(projected, pair, w, **FREE | {"momentum": momentum})
    denoise = start()
    for step in (800, 500, 300, 100):
        x, t = at(EPS, step)
        x0, x0_u = (answer[0] for answer in pair.both(x, t))
        differences.append(x0 - x0_u)
        remembered = sum(momentum**k * d for k, d in enumerate(reversed(differences)))
        torch.testing.assert_close(denoise(x, t)[0], x0 + (w - 1) * remembered)
    torch.testing.assert_close(start()(x, t)[0], x0 + (w - 1) * differences[-1])


@every_row
@pytest.mark.parametrize("settings", [
    {"eta": 0.0, "norm": 2.5, "momentum": -0.5}, {"eta": 0.3, "norm": 0.4, "momentum": 0.0},
    {"eta": 1.0, "norm": 1.0, "momentum": 0.4},
])  # fmt: skip
@pytest.mark.parametrize("w", [0, 3, 10])
def test_projected_guidance_is_that_of_diffusers_for_images(row, settings, w):
    """Theirs is the paper's in the original formulation, with the paper's w − 1 as its scale."""
    pair = aimed(row)
    ours = projected(pair, w, **settings)
    theirs = guiders.AdaptiveProjectedGuidance(
        guidance_scale=w - 1, adaptive_projected_guidance_momentum=settings["momentum"], eta=settings["eta"],
        adaptive_projected_guidance_rescale=settings["norm"], use_original_formulation=True,
    )  # fmt: skip
    theirs.set_state(step=0, num_inference_steps=3, timestep=None)
    theirs.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(settings["momentum"])
    for step in (700, 400, 200):
        x, t = at(row, step)
        (x0, _), (x0_u, _) = pair.both(x, t)
        found, eps = ours(x, t)
        torch.testing.assert_close(found, theirs.forward(x0, x0_u).pred)
        torch.testing.assert_close(row.add_noise(found, eps, t), x)


# Autoguidance


@every_row
@pytest.mark.parametrize("w", [0, 0.5, 1, 5])
@pytest.mark.parametrize("t", [20, 800])
def test_autoguidance_has_the_score_of_the_model_to_the_w_over_the_guide_to_the_w_less_one(row, w, t):
    """log p_model^w p_guide^{1−w}, the guide being a model that has learnt each class too broad."""
    x = X.clone().requires_grad_()
    density = w * log_density(x, ABAR[t], 1) + (1 - w) * log_density(x, ABAR[t], 1, 2 * S)
    (score,) = torch.autograd.grad(density.sum(), x)
    pair = good_and_bad(row, mixture(row), mixture(row, 2 * S), captions(1))
    _, eps = linear(pair, w)(*at(row, t))
    torch.testing.assert_close(eps, -(1 - ABAR[t]).sqrt() * score, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("w", [0, 0.5, 1, 3])
def test_autoguidance_is_that_of_diffusers(w):
    """Theirs makes the guide by leaving out layers; its prediction takes the place of the unconditional one."""
    good, bad = Model(), lambda x, t, cond: Model()(x, t, Condition(tokens=cond.tokens / 2))
    theirs = guiders.AutoGuidance(guidance_scale=w, auto_guidance_layers=[0], dropout=0.1)
    _, ours = linear(good_and_bad(EPS, good, bad, COND), w)(X, T)
    torch.testing.assert_close(ours, theirs.forward(out(good, COND), out(bad, COND)).pred)


@pytest.mark.parametrize(("w", "asked"), [(0, (0, 1)), (1, (1, 0)), (0.5, (1, 1)), (3, (1, 1))])
def test_autoguidance_costs_at_most_one_forward_of_each_and_both_know_the_caption(w, asked):
    good, bad = Model(), Model()
    linear(good_and_bad(EPS, good, bad, COND), w)(X, T)
    assert (len(good.calls), len(bad.calls)) == asked
    assert all(len(x) == B and cond is COND for x, _, cond in good.calls + bad.calls)


# Guidance by a classifier


def posterior(label: int):
    """log p(c | x) up to a constant: log p(x | c) − log p(x), on the variance-preserving path."""

    def log_prob(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (log_density(x, ABAR[t], label) - log_density(x, ABAR[t], None)).sum((1, 2, 3))

    return log_prob


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 3, 10])
@pytest.mark.parametrize("t", [20, 300, 800])
def test_guidance_by_the_exact_classifier_is_classifier_free_guidance(prediction, gamma, t):
    """p(c | x) ∝ p(x | c) / p(x), so p(x) p(c | x)^γ ∝ p(x)^{1−γ} p(x | c)^γ. Sampling takes no gradients, this does."""
    row, (x, at_t) = ROWS[prediction], at(ROWS[prediction], t)
    with torch.no_grad():
        x0, eps = by_classifier(aimed(row), gamma, posterior(1))(x, at_t)
    assert not eps.requires_grad
    torch.testing.assert_close(eps, sharpened(t, gamma, 1))
    torch.testing.assert_close(row.add_noise(x0, eps, at_t), x)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_noise_alone_is_not_guided_by_a_classifier(prediction):
    pair = pair_of(Model(), vp(torch.tensor([0.5, 0.0], dtype=torch.float64), prediction))
    guided = by_classifier(pair, 3.0, lambda x, t: x.square().sum((1, 2, 3)))
    for t, same in ((0, False), (1, True)):
        found, plain = guided(X, torch.tensor(t)), pair.negative(X, torch.tensor(t))
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True)) == same


@pytest.mark.parametrize(("gamma", "asked"), [(0, 0), (1, 1), (3, 1)])
def test_the_classifier_has_one_forward_where_it_guides(gamma, asked):
    seen, x = [], X.clone()
    by_classifier(pair_of(Model()), gamma, lambda x, t: (seen.append(x), x.sum((1, 2, 3)))[1])(x, T)
    assert [len(x) for x in seen] == [B] * asked
    assert not x.requires_grad


# All of them, and as an entry of params


@every_row
@pytest.mark.parametrize("w", [0, 0.5, 1, 3])
def test_each_way_with_nothing_of_its_own_is_plain_guidance(row, w):
    pair, t = pair_of(Model(), row), time(row, 400)
    plain = linear(pair, w)(X, t)
    others = [
        between(linear(pair, w), pair.positive, row, 0.0, 1e4),
        rescaled(pair, w, 0.0),
        projected(pair, w, **FREE),
    ]
    alone = denoiser(row, lambda x, t, _: Model()(x, t, UNCOND), COND)
    bad = Pair(pair.positive, alone, lambda x, t: (pair.positive(x, t), alone(x, t)), row)
    for other in (*others, linear(bad, w)):
        torch.testing.assert_close(other(X, t), plain)


ENTRIES = {
    "linear": {}, "interval": {"between": (0.0, 1e4)}, "outside": {"between": (0.0, 1e-3)},
    "rescaled": {"combine": "rescaled", "phi": 0.7}, "cfg-plus-plus": {"combine": "cfg-plus-plus"},
    "projected": {"combine": "projected", "eta": 0.0, "norm": 2.5, "momentum": -0.5}, "classifier": {"combine": "classifier"},
}  # fmt: skip


def entry(name: str, w: float, model, limits=None, row=EPS):
    told = {"log_prob": lambda x, t: x.sum((1, 2, 3))} if name == "classifier" else {}
    return guide(pair_of(model, row), Guidance(w=w, **ENTRIES[name]), limits, **told)


@pytest.mark.parametrize(("name", "w", "asked"), [
    *((name, 1.0, COND) for name in ("linear", "interval", "outside", "rescaled", "projected")),
    *((name, 0.0, UNCOND) for name in ("linear", "interval", "cfg-plus-plus", "classifier")),
])  # fmt: skip
def test_off_or_unconditional_is_that_prediction_for_one_forward_of_the_batch(name, w, asked):
    model = Model()
    _, eps = entry(name, w, model)(X, T)
    ((x, _, cond),) = model.calls
    assert len(x) == B
    assert cond is asked
    torch.testing.assert_close(eps, out(Model(), asked))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_guided_step_costs_one_forward(name):
    model, rows = Model(), B if name in ("outside", "classifier") else 2 * B
    denoise = entry(name, 3.0, model)
    for _ in range(3):
        denoise(X, T)
    assert [(len(x), len(cond.tokens)) for x, _, cond in model.calls] == [(rows, rows)] * 3


@every_row
@pytest.mark.parametrize("name", ENTRIES)
def test_every_way_clips_the_image_alike_and_the_noise_follows_it(name, row):
    t = time(row, 400)
    (x0, eps), (free, free_eps) = (entry(name, 8.0, Model(), limits, row)(X, t) for limits in ((-0.5, 0.4), None))
    assert (free.min() < -0.5) or (free.max() > 0.4)
    assert torch.equal(x0, free.clamp(-0.5, 0.4))
    if name == "cfg-plus-plus":  # whose noise is the unconditional one
        assert torch.equal(eps, free_eps)
        torch.testing.assert_close(eps, pair_of(Model(), row).negative(X, t)[1])
    else:
        torch.testing.assert_close(row.add_noise(x0, eps, t), X)


def test_an_interval_of_autoguidance_is_one_entry():
    """Inside, the model away from its guide; outside, the model, for one forward."""
    good, bad = Model(), lambda x, t, cond: Model()(x, t, Condition(tokens=cond.tokens / 2))
    pair = good_and_bad(EPS, good, bad, COND)
    denoise = guide(pair, Guidance(w=2.0, between=(sigma(300), sigma(500)), against={"weights": "ema-0.9"}), None)
    for t in (300, 500, 800):
        good.calls.clear()
        _, eps = denoise(X, torch.tensor(t))
        away = linear(pair, 2.0 if t == 500 else 1.0)(X, torch.tensor(t))[1]
        torch.testing.assert_close(eps, away)
        assert len(good.calls) == 2


def test_clipping_keeps_strongly_guided_pixels_in_range():
    low, high = -1.0, 1.0
    times = torch.cat([torch.arange(980, -1, -20), torch.tensor([-1])]).double()

    def gaussian(mean, sd):
        def denoise(x, t):
            a, s = EPS.mix(t)
            eps = s * (x - a * mean) / (a**2 * sd**2 + s**2)
            return (x - s * eps) / a, eps

        return denoise

    good, none = gaussian(0.8, 0.5), gaussian(0.0, 0.7)
    guided = linear(Pair(good, none, lambda x, t: (good(x, t), none(x, t)), EPS), 20.0)
    (*_, (_, free)) = ddim(guided, X, times, EPS)
    (*_, (_, kept)) = ddim(clipped(guided, EPS, low, high), X, times, EPS)
    assert kept.abs().max() <= 1
    assert free.mean() > 1.3

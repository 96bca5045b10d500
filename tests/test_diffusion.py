"""Objectives: ε, v, x0, flow and EDM as one table, against diffusers, against their papers, and in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from guidebook.conditioning.condition import Condition
from guidebook.config.schema import EDM, VP, Flow
from guidebook.diffusion.objective import alphas_cumprod, edm, objective, rectified_flow, vp
from guidebook.diffusion.solvers import SCHEDULERS, scheduler

SCHEDULES = ["squaredcos_cap_v2", "linear", "scaled_linear"]
BETAS = (1e-4, 0.02)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
T = torch.tensor([0, 1, 500, 998, 999])


def section(schedule="squaredcos_cap_v2", timesteps=1000, prediction="epsilon", zero=False, gamma=None) -> VP:
    betas = None if schedule == "squaredcos_cap_v2" else BETAS
    told = {"schedule": schedule, "timesteps": timesteps, "prediction": prediction, "min_snr_gamma": gamma}
    return VP(**told, betas=betas, zero_terminal_snr=zero)


def images(n: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 and noise."""
    return torch.randn(2, n, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def net(x, t, cond):
    return torch.sin(3 * x) * 0.7


ABAR = alphas_cumprod("squaredcos_cap_v2", 1000).double()
# Every row of the table, with times of its own
TABLE = {
    **{p: (vp(ABAR, p), torch.tensor([1, 100, 300, 500, 700, 900])) for p in PREDICTIONS},
    "flow": (rectified_flow(), torch.tensor([0.01, 0.1, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)),
    "edm": (edm(), torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 50.0], dtype=torch.float64)),
}
every_row = pytest.mark.parametrize("name", TABLE)


# The noise schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 1000])
@pytest.mark.parametrize("zero", [False, True])
def test_schedules_are_those_of_diffusers_bit_for_bit(schedule, timesteps, zero):
    ours = alphas_cumprod(schedule, timesteps, BETAS, zero)
    for sampler in set(SCHEDULERS) - {"heun"} if zero else SCHEDULERS:
        solver = SimpleNamespace(sampler=sampler, spacing="trailing", v=0.0)
        theirs = scheduler(section(schedule, timesteps, "v_prediction", zero), solver).alphas_cumprod
        last = -1 if zero else None  # some of theirs keep a little of the image there
        assert torch.equal(ours[:last], theirs[:last])
    assert (ours.diff() < 0).all()
    assert 0.99 < ours[0] < 1
    assert (ours[-1] == 0) == zero


def test_stable_diffusions_betas():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    assert torch.equal(alphas_cumprod("scaled_linear", 1000, (0.00085, 0.012)), theirs)


@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal_and_ends_in_noise(t):
    def f(u):
        return torch.cos((torch.tensor(u, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2

    torch.testing.assert_close(ABAR[t], f((t + 1) / 1000) / f(0.0), rtol=1e-4, atol=0)
    assert ABAR[-1] < 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_terminal_snr_ends_in_noise_alone_and_changes_the_beginning_by_nothing(schedule):
    plain, zero = (objective(section(schedule, prediction="v_prediction", zero=z)) for z in (False, True))
    x0, eps = images(1)
    assert torch.equal(zero.add_noise(x0, eps, torch.tensor([999])), eps)
    torch.testing.assert_close(zero.mix(T[:1])[0], plain.mix(T[:1])[0], rtol=0, atol=1e-6)


# The path


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noisy_images_and_velocity_are_diffusers(schedule):
    noise, ours = scheduler(section(schedule)), objective(section(schedule, prediction="v_prediction"))
    x0, eps = images(5)
    torch.testing.assert_close(ours.add_noise(x0, eps, T), noise.add_noise(x0, eps, T), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.predict(x0, eps, T), noise.get_velocity(x0, eps, T), rtol=0, atol=1e-6)


@every_row
def test_at_the_start_there_is_noise_and_at_the_end_the_image(name):
    row, _ = TABLE[name]
    a, s = row.mix(torch.tensor([row.start, row.end], dtype=torch.float64))
    assert a[1] == 1
    assert s[1] == 0
    assert s[0] / a[0] > 79
    assert row.std == pytest.approx(s[0].item(), rel=1e-6)


def test_between_timesteps_the_log_of_the_noise_is_a_line():
    a, s = TABLE["epsilon"][0].mix(torch.tensor([300.0, 300.25, 301.0], dtype=torch.float64))
    log = (s / a).log()
    torch.testing.assert_close(log[1], 0.75 * log[0] + 0.25 * log[2])
    assert torch.equal(a[[0, 2]], ABAR[[300, 301]].sqrt())


@every_row
def test_the_time_of_a_noise_level_is_found_again(name):
    row, t = TABLE[name]
    t = t[:-1].double() + 0.25 * (row.timesteps is not None)
    a, s = row.mix(t)
    torch.testing.assert_close(row.time_of(s / a), t)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_noisy_images_have_mean_sqrt_abar_x0_and_variance_one_minus_abar(t):
    abar, n = ABAR[t].item(), 40_000
    x0 = torch.full((n, 1, 1, 1), 0.7)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    x = objective(section()).add_noise(x0, eps, torch.full((n,), t)).double()
    assert x.mean().item() == pytest.approx(0.7 * abar**0.5, abs=4 * ((1 - abar) / n) ** 0.5 + 1e-7)
    assert x.var().item() == pytest.approx(1 - abar, rel=4 * (2 / n) ** 0.5)


# What is predicted, and its error


@every_row
def test_a_prediction_and_the_image_and_noise_it_means_determine_each_other(name):
    row, t = TABLE[name]
    x0, eps = images(len(t), torch.float64)
    x, out = row.add_noise(x0, eps, t), row.predict(x0, eps, t)
    torch.testing.assert_close(row.split(out, x, t), (x0, eps))
    found, noise = row.split(out[:1] * 1.1, x[:1], t[0])  # one time of all images
    torch.testing.assert_close(row.add_noise(found, noise, t[0]), x[:1])


def test_targets_are_those_of_the_papers():
    x0, eps = images(6, torch.float64)
    rows = {name: (row.predict(x0, eps, t), t) for name, (row, t) in TABLE.items()}
    assert torch.equal(rows["epsilon"][0], eps)
    assert torch.equal(rows["sample"][0], x0)
    assert torch.equal(rows["flow"][0], eps - x0)  # Liu et al. 2023, eq. 1
    sigma = rows["edm"][1][:, None, None, None]
    skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(rows["edm"][0], (x0 - skip * (x0 + sigma * eps)) / out)


def test_the_loss_of_edm_is_that_of_the_paper():
    """λ(σ) ‖D(x; σ) − x0‖² with D, λ and the inputs of Karras et al. 2022, table 1."""
    row, t = TABLE["edm"]
    x0, eps = images(6, torch.float64)
    sigma, seen = t[:, None, None, None], []
    ours = row.loss(lambda x, t, cond: (seen.append(t), net(x, t, cond))[1], x0, eps, t, Condition())
    x = x0 + sigma * eps
    out = net(x / (sigma**2 + 0.25).sqrt(), None, None)
    d = 0.25 / (sigma**2 + 0.25) * x + 0.5 * sigma / (sigma**2 + 0.25).sqrt() * out
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    torch.testing.assert_close(ours, (weight * (d - x0) ** 2).mean((1, 2, 3)), rtol=1e-6, atol=0)
    assert torch.equal(seen[0], t.log() / 4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_the_image_by_the_least_of_snr_and_gamma(prediction, gamma):
    """One wrong image, predicted as ε, v or x0: its weighted loss is min(SNR, γ) times its square error."""
    row, t = vp(ABAR, prediction, gamma), torch.tensor([5, 100, 300, 500, 700, 900])
    x0, eps = images(6, torch.float64)

    def wrong(x, t, cond):
        a, s = (c[:, None, None, None] for c in row.mix(t))
        return row.predict(x0 + 0.1, (x - a * (x0 + 0.1)) / s, t)

    each = row.loss(wrong, x0, eps, t, Condition())
    torch.testing.assert_close(each, (ABAR[t] / (1 - ABAR[t])).clamp(max=gamma) * 0.1**2, rtol=1e-4, atol=0)


@every_row
def test_a_perfect_predictor_has_no_loss_and_one_of_zero_the_mean_square_of_the_target(name):
    row, t = TABLE[name]
    x0, eps = images(6, torch.float64)
    out = row.predict(x0, eps, t)
    assert row.loss(lambda *_: out, x0, eps, t, Condition()).max() < 1e-13
    zero = row.loss(lambda x, *_: torch.zeros_like(x), x0, eps, t, Condition())
    torch.testing.assert_close(zero, (out**2).mean((1, 2, 3)))


def test_the_loss_is_taken_in_single_precision():
    x0, eps = images(5)
    each = objective(section()).loss(lambda *_: eps.bfloat16(), x0, eps, T, Condition())
    assert each.dtype == torch.float32
    torch.testing.assert_close(each, (eps.bfloat16().float() - eps).square().mean((1, 2, 3)))


def test_the_network_is_given_the_time_and_the_condition():
    seen, cond = [], Condition(tokens=torch.ones(5, 2, 8))
    x0, eps = images(5)
    objective(section()).loss(lambda x, t, cond: (seen.extend([x, t, cond]), x)[1], x0, eps, T, cond)
    assert torch.equal(seen[0], objective(section()).add_noise(x0, eps, T))
    assert torch.equal(seen[1], T)
    assert seen[2] is cond


# Times


def test_discrete_training_times_are_equally_likely_and_whole():
    t = objective(section(timesteps=10)).random_times(10_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert t.bincount().tolist() == pytest.approx([1000] * 10, abs=5 * 30)


@pytest.mark.parametrize(
    ("row", "level"), [(rectified_flow(0.3, 0.8), torch.logit), (edm(mean=-1, std=1.5), torch.log)]
)
def test_continuous_training_times_are_normal_in_logit_or_log(row, level):
    z = level(row.random_times(20_000, torch.Generator().manual_seed(0)).double())
    mean, std = (0.3, 0.8) if row.start == 1 else (-1, 1.5)
    assert z.mean().item() == pytest.approx(mean, abs=4 * std / 20_000**0.5)
    assert z.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_training_times_of_a_flow_may_be_uniform_and_shifted(shift):
    """The odds of a shifted time are m times those of the time, so that half of all uniform ones lie below m / (1 + m)."""
    rng = torch.Generator().manual_seed(0)
    t = rectified_flow(shift=shift, uniform=True).random_times(20_000, rng).double()
    odds = t / (1 - t) / shift
    shares = ((odds / (1 + odds)).sort().values - torch.arange(20_000) / 20_000).abs()
    assert shares.max() < 1.95 / 20_000**0.5  # Kolmogorov's bound, of one in a thousand
    assert (t < shift / (1 + shift)).double().mean().item() == pytest.approx(0.5, abs=0.02)
    logits = rectified_flow(shift=shift).random_times(20_000, rng).double().logit()
    assert logits.mean().item() == pytest.approx(math.log(shift), abs=4 / 20_000**0.5)
    assert logits.std().item() == pytest.approx(1, rel=0.03)


def test_logit_normal_times_are_those_of_diffusers():
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 20_000, 0.3, 0.8, generator=torch.Generator().manual_seed(0)
    )
    ours = rectified_flow(0.3, 0.8).random_times(20_000, torch.Generator().manual_seed(1))
    assert (theirs.sort().values - ours.sort().values).abs().max() < 0.03


@every_row
def test_bins_of_time_are_counted_from_the_image(name):
    row, t = TABLE[name]
    bins = row.bins(t, 10)
    assert bins.dtype == torch.int64
    assert bins.tolist() == sorted(bins.tolist())
    assert 0 <= bins.min() < bins.max() <= 9


def test_a_section_of_each_kind_gives_its_objective():
    flow = objective(Flow(mean=0.0, std=1.0))
    assert flow.mix(torch.tensor(0.25)) == (torch.tensor(0.75), torch.tensor(0.25))
    shifted, half = objective(Flow(mean=0.0, std=1.0, shift=3.0, times="uniform")), torch.tensor([0.5])
    torch.testing.assert_close(torch.cat([flow.spread(half), shifted.spread(half)]), torch.tensor([0.5, 0.75]))
    given = torch.cat([flow.times(half - 0.3), shifted.times(half - 0.3)])
    torch.testing.assert_close(
        given, torch.stack([torch.special.ndtri(torch.tensor(0.2)).sigmoid(), torch.tensor(0.6 / 1.4)])
    )
    assert objective(EDM(sigma_data=1.0, mean=0.0, std=1.0, largest=40.0)).start == 40

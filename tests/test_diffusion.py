"""The forward process and the loss, against diffusers and in closed form."""

import pytest
import torch

from guidebook.config.schema import VP
from guidebook.diffusion.objective import SAMPLERS, Process, loss, process, scheduler

SCHEDULES = ["squaredcos_cap_v2", "linear", "scaled_linear"]


PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def diffusion(schedule="squaredcos_cap_v2", timesteps=1000, prediction="epsilon", zero=False) -> VP:
    return VP(
        schedule=schedule, timesteps=timesteps, prediction=prediction, min_snr_gamma=None, zero_terminal_snr=zero,
        betas=None if schedule == "squaredcos_cap_v2" else (1e-4, 0.02),
    )  # fmt: skip


def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 and noise."""
    return torch.randn(2, n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_noisy_images_are_diffusers(schedule, sampler):
    noise, t = scheduler(diffusion(schedule), sampler), torch.tensor([0, 1, 500, 998, 999])
    x0, eps = images(5)
    ours = process(diffusion(schedule)).noisy(x0, eps, t)
    torch.testing.assert_close(ours, noise.add_noise(x0, eps, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_velocity_is_diffusers(schedule):
    noise, t = scheduler(diffusion(schedule, prediction="v_prediction")), torch.tensor([0, 1, 500, 998, 999])
    x0, eps = images(5)
    ours = process(diffusion(schedule, prediction="v_prediction")).target(x0, eps, t)
    torch.testing.assert_close(ours, noise.get_velocity(x0, eps, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_prediction_and_the_image_it_means_determine_each_other(prediction):
    forward, t = process(diffusion(prediction=prediction)), torch.tensor([1, 200, 500, 800])
    forward = Process(forward.alphas_cumprod.double(), prediction)
    x0, eps = (z.double() for z in images(4))
    x, target = forward.noisy(x0, eps, t), forward.target(x0, eps, t)
    torch.testing.assert_close(forward.x0(target, x, t), x0)
    torch.testing.assert_close(forward.predicted(x0, x, t), target)


# diffusers' Heun does not take x0, and params refuse the two together
@pytest.mark.parametrize(
    ("sampler", "prediction"),
    [(s, p) for s in ("ddpm", "ddim", "heun") for p in PREDICTIONS if (s, p) != ("heun", "sample")],
)
def test_every_prediction_of_one_image_steps_alike(sampler, prediction):
    """A scheduler told of ε, v or x0 reads them as this library means them."""
    x0, eps = images(1)
    ends = []
    for kind in ("epsilon", prediction):
        noise, forward = (
            scheduler(diffusion("linear", prediction=kind), sampler),
            process(diffusion("linear", prediction=kind)),
        )
        noise.set_timesteps(5)
        t = noise.timesteps[1]
        a, _ = forward.at(t)
        x = forward.noisy(x0 / 4, eps, t)
        target = forward.target(x0 / 4, eps, t)
        noise.set_begin_index(1) if sampler == "heun" else None
        told = {"generator": torch.Generator().manual_seed(0)} if sampler == "ddpm" else {}
        ends.append(noise.step(target, t, x / a if sampler == "heun" else x, **told).prev_sample)
    torch.testing.assert_close(*ends, rtol=0, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_every_sampler_has_the_schedule_of_the_training(schedule, timesteps):
    trained = scheduler(diffusion(schedule, timesteps)).alphas_cumprod
    for sampler in SAMPLERS:
        assert torch.equal(scheduler(diffusion(schedule, timesteps), sampler).alphas_cumprod, trained)


def test_between_timesteps_the_log_of_the_noise_is_a_line():
    forward = process(diffusion("linear"))
    a, s = forward.at(torch.tensor([300.0, 300.25, 301.0], dtype=torch.float64))
    log = (s / a).log().flatten()
    torch.testing.assert_close(log[1], 0.75 * log[0] + 0.25 * log[2], rtol=1e-6, atol=0)
    torch.testing.assert_close(a[0].flatten(), forward.at(torch.tensor([300]))[0].flatten(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_zero_terminal_snr_ends_in_noise_alone_and_changes_the_beginning_by_nothing(schedule):
    plain, zero = (process(diffusion(schedule, prediction="v_prediction", zero=z)) for z in (False, True))
    x0, eps = images(1)
    assert torch.equal(zero.noisy(x0, eps, torch.tensor([999])), eps)
    assert plain.alphas_cumprod[-1] > 0
    assert (zero.alphas_cumprod.diff() < 0).all()
    torch.testing.assert_close(zero.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_the_error_of_the_image_by_the_least_of_snr_and_gamma(prediction, gamma):
    """One wrong image, told as ε, v or x0: its weighted loss is min(SNR, γ) times its square error."""
    forward = process(diffusion(prediction=prediction))
    forward, t = Process(forward.alphas_cumprod.double(), prediction), torch.tensor([5, 100, 300, 500, 700, 900])
    x0, eps = (z.double() for z in images(6))
    wrong = x0 + 0.1
    each = loss(
        lambda x, t, cond, return_dict: (forward.predicted(wrong, x, t),), forward, x0, eps, t, torch.zeros(6), gamma
    )
    abar = forward.alphas_cumprod[t]
    torch.testing.assert_close(each, (abar / (1 - abar)).clamp(max=gamma) * 0.1**2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_noisy_images_have_mean_sqrt_abar_x0_and_variance_one_minus_abar(t):
    abar, n = scheduler(diffusion()).alphas_cumprod[t], 40_000
    x0 = torch.full((n, 1, 1, 1), 0.7)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    x = process(diffusion()).noisy(x0, eps, torch.full((n,), t)).double()
    variance = 1 - abar.item()
    assert x.mean().item() == pytest.approx(0.7 * abar.item() ** 0.5, abs=4 * (variance / n) ** 0.5 + 1e-7)
    assert x.var().item() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)


def test_every_image_is_noised_by_its_own_timestep():
    x0, eps = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
    x = Process(torch.tensor([1.0, 0.0]), "epsilon").noisy(x0, eps, torch.tensor([0, 1]))
    assert torch.equal(x, torch.stack([x0[0], eps[1]]))


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 6, 1, 4, 4, generator=rng)
    return {
        "x0": x0, "eps": eps, "t": torch.tensor([0, 1, 10, 200, 700, 999]), "cond": torch.randn(6, 2, 8, generator=rng),
        "forward": process(diffusion()), "gamma": None,
    }  # fmt: skip


def test_a_perfect_predictor_has_no_loss(batch):
    assert torch.equal(loss(lambda x, t, cond, return_dict: (batch["eps"],), **batch), torch.zeros(6))


def test_a_predictor_that_knows_x0_has_no_loss(batch):
    def solve(x, t, cond, return_dict):
        return (batch["forward"].predicted(batch["x0"], x, t),)

    torch.testing.assert_close(loss(solve, **batch), torch.zeros(6), rtol=0, atol=1e-6)


def test_the_loss_of_a_zero_predictor_is_the_mean_square_of_the_noise(batch):
    each = loss(lambda x, t, cond, return_dict: (torch.zeros_like(x),), **batch)
    torch.testing.assert_close(each, (batch["eps"] ** 2).mean((1, 2, 3)))
    assert each.shape == (6,)


def test_the_model_is_given_the_timestep_and_the_caption(batch):
    seen = []
    loss(lambda x, t, cond, return_dict: (seen.extend([t, cond]), x)[1:], **batch)
    assert torch.equal(seen[0], batch["t"])
    assert torch.equal(seen[1], batch["cond"])


def test_the_loss_is_taken_in_single_precision(batch):
    each = loss(lambda x, t, cond, return_dict: (batch["eps"].bfloat16(),), **batch)
    assert each.dtype == torch.float32
    torch.testing.assert_close(each, (batch["eps"].bfloat16().float() - batch["eps"]).square().mean((1, 2, 3)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_the_share_of_the_image_falls_from_nearly_all_of_it(schedule, timesteps):
    abar = scheduler(diffusion(schedule, timesteps)).alphas_cumprod
    assert len(abar) == timesteps
    assert (abar.diff() < 0).all()
    assert 0.99 < abar[0] < 1
    assert abar[-1] > 0


def test_the_cosine_schedule_ends_in_noise():
    assert scheduler(diffusion()).alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal(t):
    def f(u):
        return torch.cos((torch.tensor(u, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2

    abar = scheduler(diffusion()).alphas_cumprod[t].double()
    torch.testing.assert_close(abar, f((t + 1) / 1000) / f(0.0), rtol=1e-4, atol=0)

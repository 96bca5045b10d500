"""The forward process and the loss, against diffusers and in closed form."""

import pytest
import torch

from guidebook.diffusion import add_noise, loss, scheduler
from guidebook.params import Diffusion

SCHEDULES = ["squaredcos_cap_v2", "linear", "scaled_linear"]


def diffusion(schedule: str = "squaredcos_cap_v2", timesteps: int = 1000) -> Diffusion:
    return Diffusion(schedule=schedule, timesteps=timesteps)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_add_noise_is_diffusers(schedule, sampler):
    noise, t = scheduler(diffusion(schedule), sampler), torch.tensor([0, 1, 500, 998, 999])
    x0, eps = torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = add_noise(x0, eps, noise.alphas_cumprod[t])
    torch.testing.assert_close(ours, noise.add_noise(x0, eps, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_noisy_images_have_mean_sqrt_abar_x0_and_variance_one_minus_abar(t):
    abar, n = scheduler(diffusion()).alphas_cumprod[t], 40_000
    x0 = torch.full((n, 1, 1, 1), 0.7)
    x = add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), abar.expand(n)).double()
    variance = 1 - abar.item()
    assert x.mean().item() == pytest.approx(0.7 * abar.item() ** 0.5, abs=4 * (variance / n) ** 0.5 + 1e-7)
    assert x.var().item() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)


def test_every_image_is_noised_by_its_own_timestep():
    x0, eps = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
    x = add_noise(x0, eps, torch.tensor([1.0, 0.0]))
    assert torch.equal(x, torch.stack([x0[0], eps[1]]))


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 6, 1, 4, 4, generator=rng)
    return {
        "x0": x0, "eps": eps, "t": torch.tensor([0, 1, 10, 200, 700, 999]), "cond": torch.randn(6, 2, 8, generator=rng),
        "alphas_cumprod": scheduler(diffusion()).alphas_cumprod,
    }  # fmt: skip


def test_a_perfect_predictor_has_no_loss(batch):
    assert torch.equal(loss(lambda x, t, cond, return_dict: (batch["eps"],), **batch), torch.zeros(6))


def test_a_predictor_that_knows_x0_has_no_loss(batch):
    def solve(x, t, cond, return_dict):
        abar = batch["alphas_cumprod"][t][:, None, None, None]
        return ((x - abar.sqrt() * batch["x0"]) / (1 - abar).sqrt(),)

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

"""Solvers and spacings: one law for all, diffusers as oracle, the papers' equations, and orders of convergence."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from guidebook.config.sampling import Solver
from guidebook.diffusion.guidance import clipped
from guidebook.diffusion.objective import alphas_cumprod, edm, rectified_flow, vp
from guidebook.diffusion.solvers import SOLVERS, SPACINGS, scheduler, times

LINEAR, COSINE = (vp(alphas_cumprod(name, 1000).double(), "epsilon") for name in ("linear", "squaredcos_cap_v2"))
ZERO = vp(alphas_cumprod("linear", 1000, zero_terminal_snr=True).double(), "v_prediction")
SECTION = SimpleNamespace(
    schedule="linear", timesteps=1000, prediction="epsilon", zero_terminal_snr=False, betas=(1e-4, 0.02)
)
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def solver(sampler="ddim", steps=10, spacing="leading", eta=0.0, v=0.0) -> Solver:
    return Solver(sampler=sampler, steps=steps, eta=eta, spacing=spacing, v=v)


def walk(row, way: Solver, denoise, x=X, **told):
    return list(SOLVERS[way.sampler](denoise, x, times(row, way), row, eta=way.eta, v=way.v, **told))


def net(x, t):
    return torch.sin(3 * x) * 0.7


def answer(row):
    """(x0, ε) of a network."""
    return lambda x, t: row.split(row(lambda x, t, cond: net(x, t), x, t, None), x, t)


# The law


DETERMINISTIC = ["ddim", "dpmpp-2m", "heun", "unipc"]
ROWS = {
    "linear": LINEAR,
    "cosine": COSINE,
    "flow": rectified_flow(),
    "shifted": rectified_flow(shift=3.0),
    "edm": edm(),
}
CASES = [
    (name, sampler, spacing)
    for name in ROWS
    for sampler in DETERMINISTIC
    for spacing in SPACINGS
    if name in ("linear", "cosine")
    or (sampler != "unipc" and (name, spacing) not in (("flow", "karras"), ("shifted", "karras")))
]


@pytest.mark.parametrize(("name", "sampler", "spacing"), CASES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 30, 333, 999, 1000])
def test_with_no_image_and_one_noise_the_state_is_that_noise_at_its_level(name, sampler, spacing, steps):
    """x0 = 0 and constant ε: x = s(t) ε at every time a solver visits, whatever the spacing and however many steps."""
    row, eps = ROWS[name], X[:1, :1, :2, :2]
    way = solver(sampler, steps, spacing)
    visited = times(row, way)
    _, s = row.mix(visited)
    states = walk(row, way, lambda x, t: (torch.zeros_like(x), eps), s[0] * eps)
    assert [t for t, _ in states] == visited[:-1].tolist()
    tolerance = 1e-6 if sampler == "unipc" else 1e-12
    expected = s[1:].view(-1, 1, 1, 1, 1) * eps
    torch.testing.assert_close(torch.stack([x for _, x in states]), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row", [LINEAR, rectified_flow(), edm()], ids=["vp", "flow", "edm"])
@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noise_that_is_put_back_keeps_the_level(row, steps, eta):
    """x0 = 0 and ε = x / s, with noise at right angles to all before: the length of the state is s(t)."""
    way, drawn = solver("ddim", steps, "trailing", eta), iter(torch.eye(steps + 1, dtype=torch.float64))
    _, s = row.mix(times(row, way))
    states = walk(row, way, lambda x, t: (0 * x, x / row.mix(t)[1]), s[0] * next(drawn), noise=lambda: next(drawn))
    torch.testing.assert_close(torch.stack([x.norm() for _, x in states]), s[1:])


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_where_images_are_noise_themselves_the_upper_variance_keeps_them_so(spacing, steps):
    """x0 ~ N(0, 1), whose denoiser is x0 = a x, ε = s x: the length of the state stays 1, and falls by any smaller variance."""

    def lengths(v):
        way, drawn = solver("ddpm", steps, spacing, v=v), iter(torch.eye(steps + 1, dtype=torch.float64))

        def denoise(x, t):
            a, s = LINEAR.mix(t)
            return a * x, s * x

        states = walk(LINEAR, way, denoise, next(drawn), noise=lambda: next(drawn))
        return torch.stack([x.norm() for _, x in states[:-1]])  # the last step adds no noise

    ones = torch.ones(steps - 1, dtype=torch.float64)
    torch.testing.assert_close(lengths(1.0), ones)
    assert (lengths(0.5) < ones - 1e-6).all()
    assert (lengths(0.0) < lengths(0.5)).all()


def test_from_noise_alone_every_solver_but_heun_finds_a_known_image():
    image = X.clamp(-1, 1)

    def denoise(x, t):
        a, s = ZERO.mix(t)
        return image, (x - a * image) / s

    for sampler in ("ddpm", "ddim", "dpmpp-2m", "unipc"):
        told = {"noise": lambda: torch.randn_like(X)}
        (*_, (_, x)) = walk(ZERO, solver(sampler, 7, "trailing"), denoise, **told)
        torch.testing.assert_close(x, image, rtol=0, atol=1e-6)


# Spacings


@pytest.mark.parametrize("row", [LINEAR, vp(alphas_cumprod("linear", 50).double(), "epsilon")], ids=["1000", "50"])
def test_times_fall_from_noise_to_the_image(row):
    for spacing in SPACINGS:
        for steps in (1, 2, 9, 16, 49, 50, row.timesteps):
            t = times(row, solver(steps=steps, spacing=spacing))
            assert len(t) == steps + 1
            assert (t.diff() < 0).all()
            assert t[-1] == -1
            first = (steps - 1) * (row.timesteps // steps) if spacing == "leading" else row.start
            assert t[0].item() == pytest.approx(first)
            assert spacing == "karras" or torch.equal(t, t.round())


@pytest.mark.parametrize(("sampler", "spacing"), [("ddpm", "leading"), ("ddim", "trailing"), ("dpmpp-2m", "linspace")])
def test_times_are_those_of_diffusers(sampler, spacing):
    for steps in (1, 2, 3, 7, 15, 16, 48, 50, 100, 333, 500, 999):
        way = solver(sampler, steps, spacing)
        theirs = scheduler(SECTION, way)
        theirs.set_timesteps(steps)
        assert times(LINEAR, way)[:-1].tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [2, 10, 18])
def test_karras_levels_are_those_of_diffusers_and_of_edm(steps):
    theirs = scheduler(SECTION, solver("heun", steps, "karras"))
    theirs.set_timesteps(steps)
    t = times(LINEAR, solver("heun", steps, "karras"))[:-1]
    a, s = LINEAR.mix(t)
    np.testing.assert_allclose(s / a, theirs.sigmas[:-1].unique().flip(0), rtol=2e-5)
    i = torch.arange(steps, dtype=torch.float64)
    levels = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    torch.testing.assert_close(times(edm(), solver("heun", steps, "karras"))[:-1], levels)


def test_what_a_spacing_cannot_do_is_refused():
    for row in (ZERO, rectified_flow(), rectified_flow(shift=3.0)):
        with pytest.raises(ValueError, match="finite"):
            times(row, solver(spacing="karras"))


# Oracles


def theirs(way: Solver, denoise, x=X):
    """States of a diffusers scheduler in double precision; the states of its Heun are x / a."""
    noise, rng, states = scheduler(SECTION, way, clip=False), torch.Generator().manual_seed(5), []
    noise.alphas_cumprod, noise.final_alpha_cumprod = LINEAR.mix(torch.arange(1000))[0] ** 2, torch.tensor(1.0).double()
    noise.set_timesteps(way.steps)
    if way.sampler not in ("ddpm", "ddim"):
        noise.sigmas = noise.sigmas.double()
    told = {"ddpm": {"generator": rng}, "ddim": {"generator": rng, "eta": way.eta}}.get(way.sampler, {})
    for t in noise.timesteps:
        x = noise.step(denoise(noise.scale_model_input(x, t), t)[1], t, x, **told).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize(
    ("way", "tolerance"),
    [
        (solver("ddpm", 20, "leading"), 1e-12),
        (solver("ddpm", 7, "trailing"), 1e-9),
        (solver("ddpm", 20, "leading", v=1.0), 1e-12),
        (solver("ddim", 20, "leading"), 1e-12),
        (solver("ddim", 20, "leading", 0.6), 1e-12),
        (solver("dpmpp-2m", 12, "linspace"), 1e-5),  # their noise levels are in single precision
        (solver("dpmpp-2m", 40, "trailing"), 1e-5),
        (solver("unipc", 12, "linspace"), 1e-5),
    ],
    ids=lambda v: f"{v.sampler}-{v.spacing}-{v.eta:g}-{v.v:g}" if isinstance(v, Solver) else "",
)
def test_every_state_is_that_of_diffusers(way, tolerance):
    rng, denoise = torch.Generator().manual_seed(5), answer(LINEAR)
    ours = walk(LINEAR, way, denoise, noise=lambda: torch.randn(X.shape, generator=rng, dtype=X.dtype))
    for (_, x), y in zip(ours, theirs(way, denoise), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("v", [0.0, 0.25, 0.5, 1.0])
def test_the_variance_is_that_of_diffusers_learned_range(v):
    """Theirs is read from a network's second half, −1 … 1; without image and noise the state is this step's noise alone."""
    way, theirs = solver("ddpm", 20, v=v), scheduler(SECTION, solver("ddpm", 20))
    theirs.alphas_cumprod = LINEAR.mix(torch.arange(1000))[0] ** 2
    theirs.set_timesteps(20)
    share = torch.tensor(2 * v - 1, dtype=torch.float64)
    logs = [theirs._get_variance(t, share, "learned_range") for t in theirs.timesteps[:-1]]
    ones = torch.ones(1, dtype=torch.float64)
    states = walk(LINEAR, way, lambda x, t: (0 * x, 0 * x), 0 * ones, noise=lambda: ones)
    torch.testing.assert_close(torch.cat([x for _, x in states[:-1]]), torch.stack(logs).mul(0.5).exp())


def test_a_variance_that_diffusers_has_not_is_refused_for_its_scheduler():
    with pytest.raises(ValueError, match=r"v = 0 and v = 1, not 0.5"):
        scheduler(SECTION, solver("ddpm", v=0.5))


def test_heun_is_that_of_diffusers():
    way, denoise = solver("heun", 8, "karras"), answer(LINEAR)
    (*_, (_, x)) = walk(LINEAR, way, denoise)
    a, _ = LINEAR.mix(times(LINEAR, way)[0])
    torch.testing.assert_close(x, theirs(way, denoise, X / a)[-1], rtol=0, atol=1e-3)  # their times are rounded


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 7, 28])
def test_euler_on_a_flow_is_ddim_at_the_times_of_diffusers(shift, steps):
    """Which SD3's and FLUX's pipelines visit: from 1 to 1/n, shifted."""
    flow, fm = rectified_flow(shift=shift), FlowMatchEulerDiscreteScheduler(shift=shift)
    fm.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    visited, y, states = times(flow, solver(steps=steps, spacing="trailing")), X.float() / 4, []
    torch.testing.assert_close(visited, fm.sigmas.double(), rtol=0, atol=1e-6)
    for t in fm.timesteps:
        y = fm.step(net(y, t), t, y).prev_sample
        states.append(y.double())
    ours = [x for _, x in SOLVERS["ddim"](answer(flow), X / 4, visited, flow)]
    torch.testing.assert_close(torch.stack(ours), torch.stack(states), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp-2m"])
def test_of_a_known_image_one_step_on_a_straight_path_is_exact_and_a_shift_is_no_matter(sampler, spacing):
    noise, image = torch.randn(X.shape, generator=torch.Generator().manual_seed(3), dtype=X.dtype), X.clamp(-1, 1)
    for shift, steps in itertools.product((1.0, 3.0), (1, 2, 9)):
        flow, way = rectified_flow(shift=shift), solver(sampler, steps, spacing)
        visited = times(flow, way)
        assert visited[[0, -1]].tolist() == [1, 0]
        # The velocity of the line through both
        (*_, (_, x)) = walk(flow, way, lambda x, t, flow=flow: flow.split(noise - image, x, t), noise)
        torch.testing.assert_close(x, image, rtol=0, atol=1e-9)


def test_heun_on_edm_is_algorithm_1():
    sigmas = torch.tensor([80.0, 20, 5, 1, 0.2, 0.02, 0], dtype=torch.float64)

    def d(x, sigma):
        skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25) ** 0.5
        return skip * x + out * net(x / (sigma**2 + 0.25) ** 0.5, None)

    x = 80 * X
    for sigma, to in itertools.pairwise(sigmas):
        slope = (x - d(x, sigma)) / sigma
        ahead = x + (to - sigma) * slope
        x = x + (to - sigma) * (slope + (ahead - d(ahead, to)) / to) / 2 if to > 0 else ahead
    (*_, (_, ours)) = SOLVERS["heun"](answer(edm()), 80 * X, sigmas, edm())
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-12)


# The published equations, with x0 clipped


@pytest.mark.parametrize("row", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [10, 50])
def test_every_state_is_that_of_the_published_equations(row, sampler, steps):
    """Ho et al. 2020, eq. 7, and Song et al. 2021, eq. 12."""
    way, (a, _) = solver(sampler, steps), row.mix(torch.arange(1000))
    abar, x = a**2, X
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    denoise = clipped(gaussian(row, 0.2, 0.15), row, -1.0, 1.0)
    ours = walk(row, way, denoise, noise=lambda: torch.randn(X.shape, generator=rngs[0], dtype=X.dtype))
    grid = list(range((steps - 1) * (1000 // steps), -1, -1000 // steps))
    for t, s, (seen, state) in zip(grid, [*grid[1:], None], ours, strict=True):
        x0, _ = gaussian(row, 0.2, 0.15)(x, torch.tensor(t))
        at, a_s, x0 = abar[t], torch.tensor(1.0) if s is None else abar[s], x0.clamp(-1, 1)
        if sampler == "ddim":
            eps = (x - at.sqrt() * x0) / (1 - at).sqrt()  # the noise that goes with a clipped x0
            x = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
        else:
            ratio = at / a_s
            x = (a_s.sqrt() * (1 - ratio) * x0 + ratio.sqrt() * (1 - a_s) * x) / (1 - at)
            if s is not None:
                z = torch.randn(X.shape, generator=rngs[1], dtype=X.dtype)
                x = x + ((1 - a_s) / (1 - at) * (1 - ratio)).sqrt() * z
        assert seen == t
        torch.testing.assert_close(state, x, rtol=0, atol=1e-10)


# What is known of Gaussians


def gaussian(row, mean: float, sd: float):
    """The best possible (x0, ε) where every pixel is N(mean, sd²)."""

    def denoise(x, t):
        a, s = row.mix(t)
        eps = s * (x - a * mean) / (a**2 * sd**2 + s**2)
        return (mean * s**2 + a * sd**2 * x) / (a**2 * sd**2 + s**2), eps

    return denoise


def error(row, way: Solver) -> float:
    """Root mean square distance from the end of a Gaussian's deterministic path, which keeps its distance in deviations."""
    mean, sd, (a, s) = 0.2, 0.5, row.mix(times(row, way)[0])
    end = mean + sd * (s * X - a * mean) / (a**2 * sd**2 + s**2).sqrt()
    (*_, (_, x)) = walk(row, way, gaussian(row, mean, sd), s * X)
    return (x - end).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("row", "sampler", "spacing", "order"),
    [(LINEAR, "ddim", "leading", 1), (LINEAR, "ddim", "trailing", 1), (LINEAR, "dpmpp-2m", "linspace", 2),
     (LINEAR, "unipc", "linspace", 2), (LINEAR, "heun", "karras", 2),
     (rectified_flow(), "ddim", "trailing", 1), (edm(), "heun", "karras", 2), (edm(), "ddim", "karras", 1),
     (edm(), "dpmpp-2m", "karras", 2)],
)  # fmt: skip
def test_the_error_falls_with_the_order_of_the_solver(row, sampler, spacing, order):
    """Four times the steps, 4^order times less of it; timesteps that are rounded to whole ones end the law beyond."""
    few = 12 if row.start == 80 else 8
    gain = error(row, solver(sampler, few, spacing)) / error(row, solver(sampler, 4 * few, spacing))
    assert gain > 0.8 * 4**order
    assert order > 1 or gain < 1.3 * 4


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "unipc"])
def test_a_solver_of_second_order_needs_fewer_steps(sampler):
    assert error(LINEAR, solver(sampler, 16, "linspace")) < 0.6 * error(LINEAR, solver("ddim", 16, "leading"))


def test_on_every_path_a_gaussian_ends_in_the_same_distribution():
    """A thousand steps from the same noise: its quantiles are those of N(0.2, 0.5²) on VP, EDM and flows alike."""
    for row, spacing in (
        (COSINE, "linspace"),
        (edm(), "karras"),
        (rectified_flow(), "trailing"),
        (ROWS["shifted"], "trailing"),
    ):
        assert error(row, solver("ddim", 1000, spacing)) < 0.02


def test_ddim_with_all_its_noise_is_ddpm():
    """η = 1 takes DDPM's steps with DDPM's noise (Song et al. 2021, section 4.1); η = 0 takes none."""
    ends = []
    for way in (solver("ddpm", 20), solver("ddim", 20, eta=1.0), solver("ddim", 20)):
        rng = torch.Generator().manual_seed(1)
        drawn = {"noise": lambda rng=rng: torch.randn(X.shape, generator=rng, dtype=X.dtype)}
        ends.append(walk(LINEAR, way, answer(LINEAR), **drawn)[-1][1])
    assert torch.equal(ends[0], ends[1])
    assert (ends[2] - ends[1]).abs().max() > 0.05


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize(("mean", "sd"), [(0.2, 0.15), (-0.4, 0.1)])
def test_samples_of_a_gaussian_have_its_mean_and_variance(sampler, mean, sd):
    rng = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(4, 1, 96, 96, generator=rng, dtype=X.dtype)

    (*_, (_, x)) = walk(COSINE, solver(sampler, 1000), gaussian(COSINE, mean, sd), noise(), noise=noise)
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5)
    finite = {"ddpm": 0.02, "ddim": 0.05}[sampler]  # the last steps of a thousand are coarse for so narrow a Gaussian
    assert x.var().item() == pytest.approx(sd**2, rel=4 * (2 / n) ** 0.5 + finite)

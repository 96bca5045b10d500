"""Solvers: the way from noise to image on any path x = a x0 + s ε.

Each takes a denoiser (x, t) → (x0, ε) and a list of times, whose last one is the image's, and yields (t, x) after every step.
They know a path by `mix` alone. A spacing gives the list of times. A new solver is one function and one row in
`SOLVERS`, a spacing likewise in `SPACINGS`; their names stand in `config.sampling.Solver`.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from guidebook.config.sampling import Solver
from guidebook.config.schema import VP
from guidebook.diffusion.guidance import Denoiser
from guidebook.diffusion.objective import Objective

Steps = Iterator[tuple[float, Tensor]]
RHO = 7  # of the spacing of Karras et al. 2022


# Timesteps that are visited, from noise to image   (Lin et al. 2024, table 2)
def leading(objective: Objective, steps: int) -> Tensor:
    """Multiples of one step, a whole number of timesteps, from the last noise on: the noisiest time is not visited."""
    step = objective.timesteps // steps if objective.timesteps else (objective.start - objective.last) / steps
    return objective.last + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * step


def linspace(objective: Objective, steps: int) -> Tensor:
    """Steps as long as one another, from the first time down to one before the last noise."""
    last = objective.last if objective.timesteps else objective.end
    if steps == objective.timesteps:
        return torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    times = last + torch.arange(steps, 0, -1, dtype=torch.float64) * ((objective.start - last) / steps)
    return times.round() if objective.timesteps else times


def trailing(objective: Objective, steps: int) -> Tensor:
    """Steps as long as one another, from the first time to the image."""
    span = objective.start - objective.end
    step = span - (span - span / steps)  # in floating point as numpy's arange, which decides what is rounded up
    times = span - torch.arange(steps, dtype=torch.float64) * step
    return (times.round() if objective.timesteps else times) + objective.end


# σ_i^(1/ρ) = σ_max^(1/ρ) + i / (n − 1) (σ_min^(1/ρ) − σ_max^(1/ρ))   (Karras et al. 2022, eq. 5)
def karras(objective: Objective, steps: int) -> Tensor:
    """Noise levels σ = s / a whose ρ-th roots are as far apart as one another. Raises ValueError where noise alone has σ = ∞."""
    a, s = objective.mix(torch.tensor([objective.start, objective.last], dtype=torch.float64))
    high, low = (s / a).double() ** (1 / RHO)
    if not torch.isfinite(high):
        raise ValueError("spacing = karras needs noise of a finite σ at its start: take linspace or trailing")
    return objective.time_of((high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** RHO)


SPACINGS: dict[str, Callable[[Objective, int], Tensor]] = {
    "leading": leading, "linspace": linspace, "trailing": trailing, "karras": karras,
}  # fmt: skip


def times(objective: Objective, solver: Solver) -> Tensor:
    """The times (steps + 1,) that a solver (its `spacing` and `steps`) visits, the image's last; float64, on the CPU."""
    visited = SPACINGS[solver.spacing](objective, solver.steps)
    if solver.spacing != "karras":
        visited = objective.spread(visited)
    return torch.cat([visited, torch.tensor([objective.end], dtype=torch.float64)])


def _levels(objective: Objective, times: Tensor) -> Iterator[tuple]:
    """Of each step: t (), (a, s) there, the next time (), (a, s) there."""
    levels = list(zip(*(c.double().tolist() for c in objective.mix(times)), strict=True))
    yield from zip(times, levels, times[1:], levels[1:], strict=False)


# x' = a' x0 + sqrt(s'² − η² σ̃²) ε + η σ̃ z,  σ̃² = s'² (1 − (a s' / (a' s))²)   (Song et al. 2021, eq. 12 and 16, for any path)
# With v > 0 the noise is η σ̃^(1 − v) σ^v z,  σ² = s² − (a / a')² s'² = σ̃² (s / s')²   (Ho & Salimans 2022, algorithm 2)
def ddim(denoise: Denoiser, x: Tensor, times: Tensor, objective: Objective, noise=None, eta=0.0, v=0.0) -> Steps:
    """DDIM, which is Euler's method for σ on any path, and for t on a flow. η = 1 takes the steps of DDPM (Ho et al. 2020, eq. 7).

    `noise` () draws z where η > 0, but in the step that ends in the image. Its variance lies between σ̃², that of a step whose image is
    known, and σ², that of a step where images are noise of variance 1: v is where on a logarithmic scale.
    """
    for t, (a, s), _, (a2, s2) in _levels(objective, times):
        x0, eps = denoise(x, t)
        lower = eta**2 * s2**2 * (1 - (a * s2 / (a2 * s)) ** 2)
        x = a2 * x0 + max(s2**2 - lower, 0.0) ** 0.5 * eps
        if lower > 0:
            x = x + (lower * (s / s2) ** (2 * v)) ** 0.5 * noise()
        yield t.item(), x


# dx̄/dσ = ε in x̄ = x / a, σ = s / a: ε is the mean of both ends of a step   (Karras et al. 2022, algorithm 1)
def heun(denoise: Denoiser, x: Tensor, times: Tensor, objective: Objective, **_) -> Steps:
    """Heun's method, of second order: two evaluations a step, one in the last."""
    for t, (a, s), to, (a2, s2) in _levels(objective, times):
        x0, eps = denoise(x, t)
        x = a2 * x0 + s2 * eps
        if s2 > 0 and a > 0:  # from noise alone, σ = ∞, the step is Euler's
            _, ahead = denoise(x, to)
            x = x + (s2 - a2 * s / a) * (ahead - eps) / 2
        yield t.item(), x


# x' = s'/s x + a' (1 − e^(−h)) (x0 + h / (2 h_before) (x0 − x0_before)),  h = log(a'/s') − log(a/s)
#   (Lu et al. 2022, DPM-Solver++, algorithm 2)
def dpmpp_2m(denoise: Denoiser, x: Tensor, times: Tensor, objective: Objective, **_) -> Steps:
    """DPM-Solver++(2M), of second order: remembers the step before. Its first and its last step are of first order."""
    before = None
    for t, (a, s), _, (a2, s2) in _levels(objective, times):
        x0, _eps = denoise(x, t)
        h = math.log(a2 * s / (a * s2)) if a * s2 > 0 else math.inf
        aimed = x0 + h / before[1] / 2 * (x0 - before[0]) if before and h < math.inf else x0
        x = s2 / s * x + (a2 - a * s2 / s) * aimed
        before = x0, h
        yield t.item(), x


def unipc(denoise: Denoiser, x: Tensor, times: Tensor, objective: Objective, **_) -> Steps:
    """diffusers' UniPC of order 2 (Zhao et al. 2023) on these times, fed x0. Of variance-preserving paths."""
    from diffusers import UniPCMultistepScheduler

    a, s = (c.double() for c in objective.mix(times))
    solver = UniPCMultistepScheduler(prediction_type="sample")
    solver.set_timesteps(len(times) - 1)
    solver.sigmas = s / a.clamp(min=2**-12)  # noise alone has σ = ∞: diffusers' own limit
    solver.set_begin_index(0)
    for t in times[:-1]:
        x = solver.step(denoise(x, t)[0], t, x).prev_sample
        yield t.item(), x


SOLVERS: dict[str, Callable[..., Steps]] = {
    "ddpm": lambda *args, **kw: ddim(*args, **kw | {"eta": 1.0}),
    "ddim": ddim,
    "dpmpp-2m": dpmpp_2m,
    "heun": heun,
    "unipc": unipc,
}


@torch.no_grad()
def sample(
    denoise: Denoiser,
    path: Objective,  # on the CPU
    solver: Solver,
    shape: tuple[int, int, int],  # (C, H, W)
    rngs: Sequence[torch.Generator],  # one per image, on the CPU: an image does not depend on those sampled beside it
    device: torch.device | str = "cpu",
    start: Tensor | None = None,  # (B, C, H, W) noise to begin with in the place of the generators'
) -> Iterator[tuple[float, Tensor]]:
    """Yields `(t, x)` after every step, x (B, C, H, W) float32; the last x is the sample.

    Noise is drawn on the CPU, so a seed means the same noise on every device and in every batch. What is left of the batch is the order
    of floating-point sums, which guidance multiplies by w at every step. Measured of digits in 20 steps on a CPU in fp32, at most: 1e-6
    of the value range up to w = 3, 1e-5 at 30, 1e-4 at 100; at 1000 some pixels are others (0.3). An untrained network may show 1e-4.
    """

    def noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=rng) for rng in rngs]).to(device)

    x, visited = path.std * noise(), times(path, solver)
    x = x if start is None else path.std * start.to(device)
    yield from SOLVERS[solver.sampler](denoise, x, visited, path, noise=noise, eta=solver.eta, v=solver.v)


SCHEDULERS = {
    "ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp-2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler", "heun": "HeunDiscreteScheduler",
}  # fmt: skip


def scheduler(section: VP, solver: Solver | None = None, clip: bool = True):
    """The diffusers scheduler of an objective `vp` and a solver, by default DDPM: for exported pipelines and comparisons.

    Without `clip`, x0 is not clipped to [−1, 1] on the way: for latents, which have no range. Only DDPM's and DDIM's can clip.
    Raises ValueError for a variance between DDPM's two.
    """
    import diffusers

    name, settings = solver.sampler if solver else "ddpm", {"prediction_type": section.prediction}
    if section.betas:
        settings |= {"beta_start": section.betas[0], "beta_end": section.betas[1]}
    if solver:
        karras = solver.spacing == "karras"
        settings |= {"use_karras_sigmas": True} if karras else {"timestep_spacing": solver.spacing}
    if name in ("ddpm", "ddim"):
        settings |= {"clip_sample": clip}
    if solver and solver.v:
        if solver.v < 1:
            raise ValueError(f"diffusers' DDPM has v = 0 and v = 1, not {solver.v:g}")
        settings |= {"variance_type": "fixed_large"}
    if section.zero_terminal_snr:
        settings |= {"rescale_betas_zero_snr": True}
    kind = getattr(diffusers, SCHEDULERS[name])
    return kind(num_train_timesteps=section.timesteps, beta_schedule=section.schedule, **settings)

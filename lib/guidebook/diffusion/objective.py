"""Diffusion objectives: one table for ε, v, x0, rectified flow and EDM.

A path mixes image and noise, x = a(t) x0 + s(t) ε. A network is trained to predict another mix, F = p(t) x0 + q(t) ε. Given x
and F, x0 and ε are the solution of two linear equations, so everything else follows from the four coefficients. A new objective
is one function here that returns an `Objective`, one row in `OBJECTIVES` and one class in `config.schema`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidebook.conditioning.condition import Condition

Network = Callable[[Tensor, Tensor, Condition], Tensor]  # (x (B, C, H, W), t (B,), condition of B) → F (B, C, H, W)


def _same(t: Tensor) -> Tensor:
    return t


def _wide(c: Tensor, x: Tensor) -> Tensor:
    """Coefficients () or (B,) shaped to multiply x (B, …)."""
    return c.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) if c.ndim else c


@dataclass(frozen=True)
class Objective:
    """A path, what a network predicts of it, and how its error is weighted. Times t are () or (B,), tensors."""

    mix: Callable[[Tensor], tuple[Tensor, Tensor]]  # t → (a, s) of x = a x0 + s ε
    target: Callable[[Tensor], tuple[Tensor, Tensor]]  # t → (p, q) of F = p x0 + q ε
    times: Callable[[Tensor], Tensor]  # uniform in [0, 1) → training times
    time_of: Callable[[Tensor], Tensor]  # σ = s / a → t
    start: float  # the time of pure noise
    end: float  # the time of the image, which no network sees
    last: float  # the smallest noise that a network is trained on, as a time
    std: float = 1.0  # standard deviation of the noise that sampling starts from
    weight: Callable[[Tensor], Tensor] | None = None  # t → weight of the squared error of F; None is 1
    embed: Callable[[Tensor], Tensor] = _same  # t → the time that the network is given
    scale: Callable[[Tensor], Tensor] | None = None  # t → factor of x on its way into the network; None is 1
    timesteps: int | None = None  # of discrete time; None is continuous
    spread: Callable[[Tensor], Tensor] = (
        _same  # times that are as far apart as one another → those that a solver visits
    )

    def random_times(self, n: int, rng: torch.Generator) -> Tensor:
        """Training times (n,): int64 in discrete time, else float32."""
        if self.timesteps:
            return torch.randint(0, self.timesteps, (n,), generator=rng, device=rng.device)
        return self.times(torch.rand(n, generator=rng, device=rng.device))

    def bins(self, t: Tensor, n: int) -> Tensor:
        """The bin, of n, of each training time (B,), from the image on: equal shares of time, or of log σ if t is σ."""
        if self.timesteps:
            return t * n // self.timesteps
        low, high = (self.embed(torch.tensor(x)) for x in (self.last, self.start))
        return ((self.embed(t) - low) / (high - low) * n).long().clamp(0, n - 1)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x at time t (Ho et al. 2020, eq. 4)."""
        a, s = (_wide(c, x0) for c in self.mix(t))
        return a * x0 + s * eps

    def predict(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """F that a perfect network would predict."""
        p, q = (_wide(c, x0) for c in self.target(t))
        return p * x0 + q * eps

    # (a s; p q) (x0; ε) = (x; F)  ⇒  x0 = (q x − s F) / (a q − s p),  ε = (a F − p x) / (a q − s p)
    def split(self, out: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) that a prediction F at x means; the inverse of `predict`."""
        (a, s), (p, q) = ((_wide(c, x) for c in f(t)) for f in (self.mix, self.target))
        det = a * q - s * p
        return (q * x - s * out) / det, (a * out - p * x) / det

    def __call__(self, net: Network, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """F that the network predicts at x."""
        x = x if self.scale is None else _wide(self.scale(t), x) * x
        return net(x, self.embed(t).to(x.device).expand(len(x)), cond)

    # L = w(t) ‖F_θ(x, t, c) − F‖², the mean over pixels; with ε as F and w = 1, Ho et al. 2020, eq. 14
    def loss(self, net: Network, x0: Tensor, eps: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The loss of each image, (B,) float32."""
        out = self(net, self.add_noise(x0, eps, t), t, cond)
        error = (out.float() - self.predict(x0, eps, t)).square().flatten(1).mean(1)
        return error if self.weight is None else error * self.weight(t)


def objective(section: Any, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Objective:
    """The objective of a params section. In discrete time its coefficients are in `dtype`."""
    return OBJECTIVES[section.kind](section, device, dtype)


def of_vp(section: Any, device: torch.device | str, dtype: torch.dtype) -> Objective:
    abar = alphas_cumprod(section.schedule, section.timesteps, section.betas, section.zero_terminal_snr)
    return vp(abar.to(device, dtype), section.prediction, section.min_snr_gamma)


def alphas_cumprod(
    schedule: str, timesteps: int, betas: tuple[float, float] | None = (1e-4, 0.02), zero_terminal_snr: bool = False
) -> Tensor:
    """ᾱ (T,) float32, bit for bit those of diffusers' schedulers. `betas` are the first and the last β, unless cosine.

    `squaredcos_cap_v2` is Nichol & Dhariwal 2021, eq. 17; `linear` Ho et al. 2020, section 4; `scaled_linear` that of √β, of
    Stable Diffusion; zero terminal SNR is Lin et al. 2024, algorithm 1.
    """
    if schedule == "squaredcos_cap_v2":
        f = [math.cos((i / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(timesteps + 1)]
        beta = torch.tensor([min(1 - f[i + 1] / f[i], 0.999) for i in range(timesteps)], dtype=torch.float32)
    elif schedule == "scaled_linear":
        beta = torch.linspace(betas[0] ** 0.5, betas[1] ** 0.5, timesteps, dtype=torch.float32) ** 2
    else:
        beta = torch.linspace(*betas, timesteps, dtype=torch.float32)
    if zero_terminal_snr:
        a = (1.0 - beta).cumprod(0).sqrt()
        abar = ((a - a[-1]) * (a[0] / (a[0] - a[-1]))) ** 2
        beta = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    return (1.0 - beta).cumprod(0)


# a² = ᾱ_t, s² = 1 − ᾱ_t; F is ε, v = a ε − s x0 (Salimans & Ho 2022, section 4) or x0
def vp(abar: Tensor, prediction: str, gamma: float | None = None) -> Objective:
    """The variance-preserving path in discrete time (Ho et al. 2020). `gamma` is min-SNR's; None weighs errors of F alike.

    The image is timestep −1. Between two timesteps log σ is a line, as in diffusers.
    """
    n, table = len(abar), torch.cat([abar, torch.ones_like(abar[:1])])  # table[-1] is the image's
    log_odds = (1 / abar.double() - 1).log()  # 2 log σ

    def share(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return table[t]
        low = t.floor()
        odds = torch.lerp(log_odds[low.long()], log_odds[(low.long() + 1).clamp(max=n - 1)], (t - low).double())
        return torch.where(t == low, table[low.long()], torch.sigmoid(-odds).to(table.dtype))

    def mix(t: Tensor) -> tuple[Tensor, Tensor]:
        value = share(t)
        return value.sqrt(), (1 - value).sqrt()

    def target(t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = mix(t)
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        return {"epsilon": (zero, one), "sample": (one, zero), "v_prediction": (-s, a)}[prediction]

    # min(SNR, γ) of the error of x0, SNR = a² / s²   (Hang et al. 2023, section 3.4)
    def weight(t: Tensor) -> Tensor:
        snr = share(t) / (1 - share(t))
        # An error of ε is SNR times one of x0, an error of v (SNR + 1) times.
        return snr.clamp(max=gamma) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[prediction]

    def time_of(sigma: Tensor) -> Tensor:
        wanted = (2 * sigma.double().log()).clamp(log_odds[0], log_odds[-1])
        high = torch.searchsorted(log_odds, wanted).clamp(1, n - 1)
        below, above = log_odds[high - 1], log_odds[high]
        return high - 1 + (wanted - below) / (above - below)

    return Objective(
        mix, target, lambda u: (u * n).floor().clamp(max=n - 1), time_of, start=n - 1.0, end=-1.0, last=0.0,
        weight=None if gamma is None else weight, timesteps=n,
    )  # fmt: skip


# x = (1 − t) x0 + t ε, F = ε − x0   (Liu et al. 2023; logit-normal times: Esser et al. 2024, eq. 19)
# t ← m t / (1 + (m − 1) t)   (eq. 23, m = √(n / n₀) for n pixels where n₀ need no shift)
def rectified_flow(mean: float = 0.0, std: float = 1.0, shift: float = 1.0, uniform: bool = False) -> Objective:
    """Rectified flow. The network is given 1000 t. Training times are logit-normal, or uniform; both are shifted, m = `shift`, and so
    are those of sampling."""

    def shifted(t: Tensor) -> Tensor:
        return shift * t / (1 + (shift - 1) * t)

    def times(u: Tensor) -> Tensor:
        return shifted(u if uniform else torch.sigmoid(mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))))

    return Objective(
        mix=lambda t: (1 - t, t),
        target=lambda t: (-torch.ones_like(t), torch.ones_like(t)),
        times=times,
        time_of=lambda sigma: sigma / (1 + sigma),
        start=1.0, end=0.0, last=1e-3, embed=lambda t: 1000 * t, spread=shifted,
    )  # fmt: skip


# x = x0 + σ ε, D = c_skip x + c_out F, λ = 1 / c_out²   (Karras et al. 2022, table 1); t is σ
def edm(sigma_data: float = 0.5, mean: float = -1.2, std: float = 1.2, largest: float = 80.0) -> Objective:
    """EDM. F = (x0 − c_skip x) / c_out, whose error has the weight λ c_out² = 1."""
    d2 = sigma_data**2

    def target(t: Tensor) -> tuple[Tensor, Tensor]:
        skip, out = d2 / (t**2 + d2), t * sigma_data / (t**2 + d2).sqrt()
        return (1 - skip) / out, -skip * t / out

    return Objective(
        mix=lambda t: (torch.ones_like(t), t),
        target=target,
        times=lambda u: (mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))).exp(),
        time_of=_same,
        start=largest, end=0.0, last=0.002, std=largest,
        embed=lambda t: t.log() / 4,
        scale=lambda t: 1 / (t**2 + d2).sqrt(),
    )  # fmt: skip


OBJECTIVES = {
    "vp": of_vp,
    "flow": lambda section, *_: rectified_flow(section.mean, section.std, section.shift, section.times == "uniform"),
    "edm": lambda section, *_: edm(section.sigma_data, section.mean, section.std, section.largest),
}

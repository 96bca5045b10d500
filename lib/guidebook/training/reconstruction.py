"""Averages of weights of any length, after the training, from snapshots of two power-function averages (Karras et al. 2024, §3.2)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guidebook import models
from guidebook.config.budget import images, snapshot_steps
from guidebook.config.errors import ParamsError
from guidebook.config.schema import length_of
from guidebook.runs.artifact import artifact
from guidebook.runs.run import Run
from guidebook.training import checkpoint
from guidebook.training.ema import exponent

SNAPSHOTS = "snapshots"
LEAST = 4  # moments with snapshots that a reconstruction may rest on
# t and γ of the weights p(τ) = (γ + 1) τ^γ / t^(γ + 1) of an average of the time from 0 to t
Profile = tuple[float, float]


def reconstructed(run: Run, weights: str, at: int | None = None) -> Path:
    """The folder of the backbone with `power-LENGTH` weights at the end of the training, or after `at` images: an artifact.

    Raises ParamsError for a length that the snapshots do not carry and a moment that has none, Corrupt where one of them is damaged
    or gone, and OSError where the disk is full.
    """
    length, folder = length_of(weights), run.path / SNAPSHOTS
    end, apart = at or images(run.params), snapshot_steps(run.params) * run.params.train.batch
    kept = {n: path for path in checkpoint.complete(folder) if (n := checkpoint.images(path)) <= end}
    if end not in kept:
        raise ParamsError(
            f"{run.name} has no snapshot of its averages after {end:,} images, but every {apart:,} up to where it trained: "
            f"{weights} cannot be had there; train to there, or take a moment that has one"
        )
    if lost := [n for n in range(apart, end, apart) if n not in kept]:  # of fewer, other weights would come
        raise run.corrupt(f"{SNAPSHOTS}/nimg-{lost[0]:010d}", "is not a complete snapshot")
    if len(kept) < LEAST or length * end < apart:
        raise ParamsError(
            f"{run.name} has {len(kept)} snapshots of its averages up to {end:,} images, {apart:,} apart: {weights} needs at least "
            f"{LEAST}, not farther apart than {length * end:,.0f}; take a longer average or a later time, or train with a larger train.snapshots"
        )

    def make(aside: Path) -> None:
        names = [name for name in run.params.train.tracks if name.startswith("power-")]
        profiles = [(n / end, exponent(length_of(name))) for n in kept for name in names]
        shares, total = iter(combination(profiles, (1.0, exponent(length)))), {}
        for path in kept.values():
            tensors, _ = checkpoint.load(path, remedy=f"put it back, or delete {run.owner} and run again")
            for name in names:
                share = next(shares)
                for key, weight in tensors[name].items():
                    total[key] = total.get(key, 0) + share * weight.float()
        net = models.build(run.params)
        net.load_state_dict(total, strict=False)
        net.save_pretrained(aside)

    return artifact(run.path / "reconstructed", weights, {"weights": weights, "at": end}, make)


# A x = b  with  A_ij = ⟨p_i, p_j⟩,  b_i = ⟨p_i, p⟩
def combination(profiles: Sequence[Profile], target: Profile) -> np.ndarray:
    """Shares x (n,) that sum to 1, by which averages of these profiles come nearest to one of the target's, in least squares (appendix C)."""
    times, exponents = np.array(profiles, float).T
    gram = product(times[:, None], exponents[:, None], times[None], exponents[None])
    shares = np.linalg.lstsq(gram, product(times, exponents, *target), rcond=1e-15)[0]
    return shares / shares.sum()


# ⟨p_a, p_b⟩ = (γ_a + 1) (γ_b + 1) (t_a / t_b)^(γ_b where t_a < t_b, else −γ_a) / ((γ_a + γ_b + 1) max(t_a, t_b))
def product(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Inner products ∫ p_a(τ) p_b(τ) dτ of profiles (Karras et al. 2024, appendix C); arrays broadcast."""
    power = np.where(t_a < t_b, gamma_b, -gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
    return scale * (t_a / t_b) ** power

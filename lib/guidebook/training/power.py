"""Power-function profiles: how much each moment of a training counts in an average of its weights (Karras et al. 2024, section 3).

p(τ) = (γ + 1) τ^γ / t^(γ + 1) for the time τ from 0 to t. Imports no torch.
"""

from collections.abc import Sequence

import numpy as np

Profile = tuple[float, float]  # t and γ


# σ² = (γ + 1) / ((γ + 2)² (γ + 3))
def exponent(length: float) -> float:
    """γ of the power-function average whose weights have the standard deviation `length`, over the time of its end.

    The largest root of γ³ + 7 γ² + (16 − σ⁻²) γ + 12 − σ⁻² (Karras et al. 2024, eq. 3).
    """
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


def density(length: float, tau: np.ndarray) -> np.ndarray:
    """p(τ) at shares τ (n,) of the training, of an average of this length at its end."""
    gamma = exponent(length)
    return (gamma + 1) * tau**gamma


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

"""The forward process and the training objective."""

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from guidebook.params import Diffusion

SAMPLERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


def scheduler(diffusion: Diffusion, sampler: str = "ddpm"):
    """A diffusers scheduler with this noise schedule. Its other settings are diffusers' defaults, as in the source."""
    return SAMPLERS[sampler](num_train_timesteps=diffusion.timesteps, beta_schedule=diffusion.schedule)


# x_t = sqrt(ᾱ_t) x_0 + sqrt(1 − ᾱ_t) ε   (Ho et al. 2020, eq. 4)
def add_noise(
    x0: torch.Tensor,  # (B, C, H, W)
    eps: torch.Tensor,  # (B, C, H, W) standard normal
    alphas_cumprod: torch.Tensor,  # (B,) ᾱ at each image's timestep
) -> torch.Tensor:
    a = alphas_cumprod[:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


# L_simple = ‖ε − ε_θ(x_t, t, c)‖², the mean over pixels   (Ho et al. 2020, eq. 14)
def loss(
    model,  # (x_t, t, cond) → ε, a diffusers U-Net
    x0: torch.Tensor,  # (B, C, H, W) in the model's range
    eps: torch.Tensor,  # (B, C, H, W)
    t: torch.Tensor,  # (B,) int64
    cond: torch.Tensor,  # (B, L, D)
    alphas_cumprod: torch.Tensor,  # (T,)
) -> torch.Tensor:
    """The loss of each image, (B,) float32."""
    predicted = model(add_noise(x0, eps, alphas_cumprod[t]), t, cond, return_dict=False)[0]
    return (predicted.float() - eps).square().flatten(1).mean(1)

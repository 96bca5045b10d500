"""The forward process, what a model predicts of it, and the training objective."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from guidebook.config.schema import Diffusion

SAMPLERS = {
    "ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp-2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler", "heun": "HeunDiscreteScheduler",
}  # fmt: skip


def scheduler(diffusion: Diffusion, sampler: str = "ddpm", spacing: str = "leading", clip: bool = True):
    """A diffusers scheduler with this noise schedule. Its other settings are diffusers' defaults, as in the source.

    Without `clip`, x0 is not clipped to [−1, 1] on the way: for latents, which know no range.
    """
    import diffusers

    # The ends of β are those of Ho et al. 2020 for every sampler; diffusers' defaults differ between its schedulers.
    settings = {"prediction_type": diffusion.prediction, "beta_start": 1e-4, "beta_end": 0.02}
    if spacing == "karras":  # the spacing of EDM (Karras et al. 2022, eq. 5)
        settings |= {"use_karras_sigmas": True}
    else:
        settings |= {"timestep_spacing": spacing}
    if sampler in ("ddpm", "ddim"):  # the others do not clip
        settings |= {"clip_sample": clip}
    if diffusion.zero_terminal_snr:
        settings |= {"rescale_betas_zero_snr": True}
    return getattr(diffusers, SAMPLERS[sampler])(
        num_train_timesteps=diffusion.timesteps, beta_schedule=diffusion.schedule, **settings
    )


@dataclass(frozen=True)
class Process:
    """x_t = a_t x_0 + s_t ε with a_t² + s_t² = 1, and the quantity of it that a model predicts.

    A prediction is ε, v = a ε − s x_0 (Salimans & Ho 2022, section 4) or x_0; given x_t each determines the others.
    """

    alphas_cumprod: torch.Tensor  # (T,) a_t²
    prediction: str  # "epsilon", "v_prediction" or "sample", diffusers' words

    def __len__(self) -> int:
        """The number T of timesteps."""
        return len(self.alphas_cumprod)

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(a, s) at timesteps t, shaped to multiply images: (B, 1, 1, 1) for t (B,), () for one t.

        Between two timesteps log(s / a) is interpolated, as diffusers does.
        """
        abar = self.alphas_cumprod
        if t.is_floating_point():
            low, share = t.floor().long(), t - t.floor()
            high = (low + 1).clamp(max=len(abar) - 1)
            odds = torch.lerp(torch.log(1 / abar[low] - 1), torch.log(1 / abar[high] - 1), share.to(abar.dtype))
            value = torch.sigmoid(-odds)
        else:
            value = abar[t]
        value = value.reshape(-1, 1, 1, 1) if t.ndim else value
        return value.sqrt(), (1 - value).sqrt()

    def noisy(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t (Ho et al. 2020, eq. 4)."""
        a, s = self.at(t)
        return a * x0 + s * eps

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model should predict."""
        a, s = self.at(t)
        return {"epsilon": lambda: eps, "v_prediction": lambda: a * eps - s * x0, "sample": lambda: x0}[
            self.prediction
        ]()

    def x0(self, predicted: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The image that a prediction at x_t means."""
        a, s = self.at(t)
        ways = {
            "epsilon": lambda: (x - s * predicted) / a,
            "v_prediction": lambda: a * x - s * predicted,
            "sample": lambda: predicted,
        }
        return ways[self.prediction]()

    def predicted(self, x0: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The prediction at x_t that means an image: the inverse of `x0`."""
        a, s = self.at(t)
        ways = {
            "epsilon": lambda: (x - a * x0) / s,
            "v_prediction": lambda: (a * x - x0) / s,
            "sample": lambda: x0,
        }
        return ways[self.prediction]()

    # w_t ∝ min(SNR, γ) of the error of x_0, SNR = a² / s²   (Hang et al. 2023, section 3.4)
    def weight(self, t: torch.Tensor, gamma: float) -> torch.Tensor:
        """The loss weight (B,) of min-SNR-γ for this prediction, at timesteps t (B,)."""
        abar = self.alphas_cumprod[t]
        snr = abar / (1 - abar)
        least = snr.clamp(max=gamma)
        # An error of ε is SNR times one of x_0, an error of v (SNR + 1) times.
        per = {"epsilon": lambda: snr, "v_prediction": lambda: snr + 1, "sample": lambda: 1}[self.prediction]()
        return least / per


def process(diffusion: Diffusion, device: torch.device | str = "cpu") -> Process:
    """The forward process of a run."""
    return Process(scheduler(diffusion).alphas_cumprod.to(device), diffusion.prediction)


# L = w_t ‖target − f_θ(x_t, t, c)‖², the mean over pixels; with w = 1 and ε as the target, Ho et al. 2020, eq. 14
def loss(
    model,  # (x_t, t, cond) → prediction, a diffusers U-Net
    forward: Process,
    x0: torch.Tensor,  # (B, C, H, W) in the model's range
    eps: torch.Tensor,  # (B, C, H, W)
    t: torch.Tensor,  # (B,) int64
    cond: torch.Tensor,  # (B, L, D)
    gamma: float | None,  # of min-SNR; None weighs all timesteps the same
    mark: Callable[[str], None] = lambda part: None,  # hears when a part is done
) -> torch.Tensor:
    """The loss of each image, (B,) float32."""
    x = forward.noisy(x0, eps, t)
    mark("noise")
    predicted = model(x, t, cond, return_dict=False)[0]
    mark("forward")
    each = (predicted.float() - forward.target(x0, eps, t)).square().flatten(1).mean(1)
    each = each if gamma is None else each * forward.weight(t, gamma)
    mark("loss")
    return each

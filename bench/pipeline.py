"""The peer of the sampling bench: a diffusers pipeline for the study's U-Net.

No pipeline of diffusers takes a U-Net with captions in pixel space. This one has the parts of those that take one in latent space:
captions through the text encoder at every call, both predictions from one forward of twice the batch, the scheduler's step, a
progress bar, `VaeImageProcessor` at the end.
"""

import inspect

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel


class GuidedPipeline(DiffusionPipeline):
    """Images of captions given as tokens, guided at a scale in diffusers' words: 1 is off."""

    def __init__(self, unet: UNet2DConditionModel, scheduler, text_encoder: CLIPTextModel, signed: bool = True):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder)
        # `signed`: the model's range is −1 … 1, else 0 … 1
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_normalize=signed)

    @torch.no_grad()
    def __call__(
        self,
        ids: torch.Tensor,  # (B, L)
        null: torch.Tensor,  # (L,) of the null caption
        guidance_scale: float,
        num_inference_steps: int,
        generator: list[torch.Generator],  # one per image
        eta: float = 0.0,
        output_type: str = "pil",
    ):
        """PIL images, or an array (B, H, W, C) for `output_type="np"`."""
        device, dtype, guided = self._execution_device, self.unet.dtype, guidance_scale != 1
        embeds = self._encode(ids.to(device), null.to(device), guided)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        c, size = self.unet.config.in_channels, self.unet.config.sample_size
        x = randn_tensor((len(ids), c, size, size), generator=generator, device=device, dtype=dtype)
        x = x * self.scheduler.init_noise_sigma
        extra = self._extra(generator, eta)
        with self.progress_bar(total=num_inference_steps) as bar:
            for t in self.scheduler.timesteps:
                twice = torch.cat([x, x]) if guided else x
                twice = self.scheduler.scale_model_input(twice, t)
                predicted = self.unet(twice, t, encoder_hidden_states=embeds, return_dict=False)[0]
                if guided:
                    uncond, cond = predicted.chunk(2)
                    predicted = uncond + guidance_scale * (cond - uncond)
                x = self.scheduler.step(predicted, t, x, **extra, return_dict=False)[0]
                bar.update()
        if not self.image_processor.config.do_normalize:
            x = x.clamp(0, 1)  # else the processor clips
        return self.image_processor.postprocess(x.float(), output_type=output_type)

    def _encode(self, ids: torch.Tensor, null: torch.Tensor, guided: bool) -> torch.Tensor:
        cond = self.text_encoder(ids)[0].to(self.unet.dtype)
        if not guided:
            return cond
        uncond = self.text_encoder(null.expand_as(ids))[0].to(self.unet.dtype)
        return torch.cat([uncond, cond])

    def _extra(self, generator: list[torch.Generator], eta: float) -> dict:
        """What this scheduler's step takes of the two."""
        takes = inspect.signature(self.scheduler.step).parameters
        return {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in takes}

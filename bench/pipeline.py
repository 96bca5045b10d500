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
from torch import Tensor


class GuidedPipeline(DiffusionPipeline):
    """Images of captions given as tokens, guided at a scale in diffusers' words: 1 is off."""

    def __init__(self, unet: UNet2DConditionModel, scheduler, text_encoder):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def __call__(self, ids: list[Tensor], null: Tensor, scale: float, steps: int, generator: list, eta: float) -> list:
        """PIL images of B tokens (L,), guided against those of the null caption (L,); one generator each."""
        ids, device, dtype, guided = torch.stack(ids), self._execution_device, self.unet.dtype, scale != 1
        tokens = torch.cat([null.expand_as(ids), ids]) if guided else ids
        embeds = self.text_encoder(tokens.to(device))[0].to(dtype)
        self.scheduler.set_timesteps(steps, device=device)
        c, size = self.unet.config.in_channels, self.unet.config.sample_size
        x = randn_tensor((len(ids), c, size, size), generator=generator, device=device, dtype=dtype)
        x = x * self.scheduler.init_noise_sigma
        takes = inspect.signature(self.scheduler.step).parameters
        extra = {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in takes}
        with self.progress_bar(total=steps) as bar:
            for t in self.scheduler.timesteps:
                twice = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
                predicted = self.unet(twice, t, encoder_hidden_states=embeds, return_dict=False)[0]
                if guided:
                    uncond, cond = predicted.chunk(2)
                    predicted = uncond + scale * (cond - uncond)
                x = self.scheduler.step(predicted, t, x, **extra, return_dict=False)[0]
                bar.update()
        return self.image_processor.postprocess(x.float(), output_type="pil")

"""A diffusers pipeline for runs in pixel space: none of diffusers' own takes captions there."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.condition import Condition
from guidebook.data.images import to_uint8
from guidebook.models import load
from guidebook.models.backbone import Backbone


class Network(ModelMixin):
    """The loader that `model_index.json` names: a backbone of whichever kind."""

    @classmethod
    def from_pretrained(cls, folder: str, **_) -> Backbone:
        return load(Path(folder))


class PixelPipeline(DiffusionPipeline):
    """Captions to images. `PixelPipeline.from_pretrained(folder)` loads what `guidebook.export.pipeline.export` wrote."""

    def __init__(
        self,
        unet: Backbone,
        scheduler: SchedulerMixin,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        # Kept in model_index.json: (C, H, W) of an image, and what pixel 0 and pixel 255 are to the network
        shape: tuple[int, int, int] = (3, 32, 32),
        range: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(unet=(__name__, Network.__name__), shape=list(shape), range=list(range))

    # x_{t−1} ~ p_θ(x_{t−1} | x_t), from x_T ~ N(0, I)   (Ho et al. 2020, algorithm 2), as guidebook.sampling.sampler.sample
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int,
        guidance_scale: float,  # w: 1 is off, 0 is unconditional
        generator: torch.Generator | list[torch.Generator],  # one per prompt, on the CPU
        eta: float = 0.0,  # of DDIM
    ) -> ImagePipelineOutput:
        """PIL images, one per prompt. Raises ValueError where there are more or fewer generators than prompts."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rngs = [generator] if isinstance(generator, torch.Generator) else generator
        if len(prompts) != len(rngs):
            raise ValueError(f"{len(prompts)} prompts and {len(rngs)} generators: give one generator per prompt")
        device, cond = self._execution_device, Condition(tokens=self._embeddings([*prompts, *[NULL] * len(prompts)]))
        told = {"generator": rngs} if "DDPM" in type(self.scheduler).__name__ else {}
        if "DDIM" in type(self.scheduler).__name__:
            told = {"generator": rngs, "eta": eta, "use_clipped_model_output": True}
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        x = torch.stack([torch.randn(*self.config.shape, generator=rng) for rng in rngs]).to(device)
        x = x * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x, t)
            out, null = self.unet(torch.cat([scaled, scaled]), t, cond).chunk(2)
            x = self.scheduler.step(null + guidance_scale * (out - null), t, x, **told).prev_sample
        pixels = to_uint8(x.cpu(), *self.config.range).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput([Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels])

    def _embeddings(self, captions: list[str]) -> torch.Tensor:
        """(N, L, D) float32 of N captions."""
        told = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(told.input_ids.to(self.text_encoder.device)).last_hidden_state.float()

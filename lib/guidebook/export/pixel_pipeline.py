"""A diffusers pipeline for runs in pixel space: none of diffusers' own takes captions there."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.condition import Condition
from guidebook.data.images import to_uint8
from guidebook.diffusion.guidance import clipped, conditional_or_not, linear
from guidebook.diffusion.objective import vp
from guidebook.diffusion.solvers import solver_of
from guidebook.models import load
from guidebook.models.backbone import Backbone
from guidebook.sampling.sampler import sample


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
        solver, config = solver_of(self.scheduler, num_inference_steps, eta), self.scheduler.config
        path, shape = vp(self.scheduler.alphas_cumprod.double().cpu(), config.prediction_type), tuple(self.config.shape)
        cond, uncond = (self._condition(captions) for captions in (prompts, [NULL] * len(prompts)))
        denoise = linear(conditional_or_not(path, self.unet, cond, uncond), guidance_scale)
        walk = sample(clipped(denoise, path, *self.config.range), path, solver, shape, rngs, self._execution_device)
        *_, (_, x) = self.progress_bar(walk)
        pixels = to_uint8(x.cpu(), *self.config.range).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput([Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels])

    def _condition(self, captions: list[str]) -> Condition:
        """Of N captions."""
        told = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return Condition(
            tokens=self.text_encoder(told.input_ids.to(self.text_encoder.device)).last_hidden_state.float()
        )

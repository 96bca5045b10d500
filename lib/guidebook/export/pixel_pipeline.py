"""A diffusers pipeline for runs in pixel space: none of diffusers' own takes captions there."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.condition import Condition
from guidebook.config import sampling, schema
from guidebook.data.images import to_uint8
from guidebook.diffusion.guidance import RANGE, conditional_or_not, guide
from guidebook.diffusion.objective import objective
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
        # Kept in model_index.json: (C, H, W) of an image, what pixel 0 and pixel 255 are to the network, and sections of the params
        shape: tuple[int, int, int] = (3, 32, 32),
        range: tuple[float, float] = (-1.0, 1.0),
        objective: dict | None = None,
        solver: dict | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(unet=(__name__, Network.__name__), shape=list(shape), range=list(range))
        self.register_to_config(objective=objective, solver=solver)

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
        path = objective(schema.Objective.model_validate(self.config.objective, strict=False), dtype=torch.float64)
        solver = sampling.Solver.model_validate({**self.config.solver, "steps": num_inference_steps, "eta": eta})
        pair = conditional_or_not(path, self.unet, cond[: len(rngs)], cond[len(rngs) :])
        denoise = guide(pair, sampling.Guidance(w=guidance_scale), RANGE)
        *_, (_, x) = sample(denoise, path, solver, self.config.shape, rngs, device)
        pixels = to_uint8(x.cpu(), *self.config.range).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput([Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels])

    def _embeddings(self, captions: list[str]) -> torch.Tensor:
        """(N, L, D) float32 of N captions."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state.float()

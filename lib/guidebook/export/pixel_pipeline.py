"""A diffusers pipeline for runs in pixel space: none of diffusers' own takes captions there.

An exported folder holds this file with all that it imports of the library, as one (`pipeline.one_file`).
"""

import re
from types import SimpleNamespace

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidebook.conditioning.condition import Condition
from guidebook.diffusion.guidance import RANGE, clipped, conditional_or_not, linear
from guidebook.diffusion.objective import objective
from guidebook.diffusion.solvers import sample


class PixelPipeline(DiffusionPipeline):
    """Captions to images. `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads an exported folder."""

    def __init__(
        self,
        unet: ModelMixin,  # (x (B, C, H, W), t (B,), condition of B) → F
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        # Kept in model_index.json: (C, H, W) of an image, what pixel 0 and pixel 255 are to the network, and sections of the params
        shape: tuple[int, int, int] = (3, 32, 32),
        range: tuple[float, float] = (-1.0, 1.0),
        objective: dict | None = None,
        solver: dict | None = None,
        pooled: bool = False,  # whether the network takes one vector of the text
    ):
        super().__init__()
        self.register_modules(unet=unet, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(shape=list(shape), range=list(range), objective=objective, solver=solver)
        self.register_to_config(pooled=pooled)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int | None = None,  # None: as the study samples
        guidance_scale: float = 1.0,  # w: 1 is off, 0 is unconditional
        # One per prompt, on the CPU; None: by torch's own seed
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float | None = None,  # of DDIM; None: as the study samples
    ) -> ImagePipelineOutput:
        """PIL images, one per prompt. Raises ValueError for words it does not know, and for more or fewer generators than prompts."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rngs = [generator] if isinstance(generator, torch.Generator) else generator
        if rngs is None:
            rngs = [torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (len(prompts),)).tolist()]
        if len(prompts) != len(rngs):
            raise ValueError(f"{len(prompts)} prompts and {len(rngs)} generators: give one generator per prompt")
        path = objective(SimpleNamespace(**self.config.objective), dtype=torch.float64)
        given = {"steps": num_inference_steps, "eta": eta}
        solver = SimpleNamespace(**self.config.solver | {key: x for key, x in given.items() if x is not None})
        if not (1 <= solver.steps <= (path.timesteps or solver.steps) and 0 <= guidance_scale < float("inf")):
            asked = f"{solver.steps} steps at guidance_scale = {guidance_scale}"
            raise ValueError(f"{asked}: there are {path.timesteps} at most")
        both = self._embeddings([*prompts, *[""] * len(prompts)])
        cond, uncond = both[: len(prompts)], both[len(prompts) :]
        pair = conditional_or_not(path, self.unet, cond, uncond)
        denoise = clipped(linear(pair, guidance_scale), path, *RANGE)
        *_, (_, x) = sample(denoise, path, solver, tuple(self.config.shape), rngs, self._execution_device)
        low, high = self.config.range
        shares = ((x.cpu() - low) / (high - low)).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(self.numpy_to_pil(shares))

    def _embeddings(self, captions: list[str]) -> Condition:
        """float32, of N captions."""
        # That of the stand-in text encoder: whole words, and those of the run's captions alone
        if self.tokenizer.unk_token is None:
            known = self.tokenizer.get_vocab().keys() - set(self.tokenizer.all_special_tokens)
            said = {word for caption in captions for word in re.findall(r"\w+|[^\w\s]", caption.lower())}
            if unknown := said - known:
                listed = (sorted(each) for each in (unknown, known))
                others, own = (
                    ", ".join(w if w.isalnum() else repr(w) for w in each) for each in listed
                )  # signs quoted
                raise ValueError(f"the model's captions have no {others}, but {own}")
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        found = self.text_encoder(ids.to(self.text_encoder.device))
        pooled = found.pooler_output.float() if self.config.pooled else None
        return Condition(found.last_hidden_state.float(), pooled)

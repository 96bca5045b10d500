"""A diffusers pipeline for runs in pixel space: none of diffusers' own takes captions there."""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from guidebook.conditioning.captions import NULL
from guidebook.data.images import to_uint8
from guidebook.diffusion.guidance import classifier_free


class PixelPipeline(DiffusionPipeline):
    """Captions to images. `PixelPipeline.from_pretrained(folder)` loads what `guidebook.export.pipeline.export` wrote."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        # What pixel 0 and pixel 255 are to the U-Net; kept in model_index.json
        range: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer)
        self.register_to_config(range=list(range))

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
        device, c, side = self._execution_device, self.unet.config.in_channels, self.unet.config.sample_size
        cond, uncond = self._embeddings(prompts), self._embeddings([NULL] * len(prompts))
        denoise = classifier_free(
            lambda x, t, told: self.unet(x, t, told, return_dict=False)[0], cond, uncond, guidance_scale
        )
        told = {"generator": rngs} if "DDPM" in type(self.scheduler).__name__ else {}
        if "DDIM" in type(self.scheduler).__name__:
            told = {"generator": rngs, "eta": eta, "use_clipped_model_output": True}
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        x = torch.stack([torch.randn(c, side, side, generator=rng) for rng in rngs]).to(device)
        x = x * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            predicted = denoise(self.scheduler.scale_model_input(x, t), t)
            x = self.scheduler.step(predicted, t, x, **told).prev_sample
        pixels = to_uint8(x.cpu(), *self.config.range).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput([Image.fromarray(p[..., 0] if c == 1 else p) for p in pixels])

    def _embeddings(self, captions: list[str]) -> torch.Tensor:
        """(N, L, D) float32 of N captions."""
        told = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(told.input_ids.to(self.text_encoder.device)).last_hidden_state.float()

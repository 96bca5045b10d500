"""Sampling: noise to images, one seed per image."""

from collections.abc import Iterator

import torch

from guidebook import pool
from guidebook.captions import NULL, class_captions
from guidebook.data.catalog import CATALOG
from guidebook.data.images import to_uint8
from guidebook.diffusion import scheduler
from guidebook.guidance import Denoise, classifier_free
from guidebook.imagesets import ImageSet, image_set, in_parts, path_of
from guidebook.models.unet import suit
from guidebook.params import Params
from guidebook.processes import world
from guidebook.rng import generator
from guidebook.run import Run
from guidebook.text import encode
from guidebook.training import load_model


# x_{t−1} ~ p_θ(x_{t−1} | x_t), from x_T ~ N(0, I)   (Ho et al. 2020, algorithm 2; Song et al. 2021 for DDIM)
@torch.no_grad()
def sample(
    denoise: Denoise,
    noise_scheduler,  # a diffusers scheduler
    shape: tuple[int, int, int],  # (C, H, W)
    seeds: list[int],  # one per image: an image does not depend on those sampled beside it
    steps: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields `(t, x)` after every step, x (B, C, H, W) float32; the last x is the sample.

    The noise is drawn on the CPU, so a seed means the same noise on every device and in every batch. What is left of the
    batch is the order of floating-point sums: about 1e-4 of the value range on a CPU in fp32.
    """
    rngs = [generator(seed, "image") for seed in seeds]
    noise_scheduler.set_timesteps(steps, device=device)
    x = torch.stack([torch.randn(shape, generator=rng) for rng in rngs]).to(device) * noise_scheduler.init_noise_sigma
    for t in noise_scheduler.timesteps:
        eps = denoise(noise_scheduler.scale_model_input(x, t), t)
        x = noise_scheduler.step(eps, t, x, generator=rngs).prev_sample
        yield int(t), x


def draw(run: Run, guidance: float, n: int, prompt: str | None = None, weights: str | None = None) -> ImageSet:
    """n samples at one guidance scale: found in the run folder, else drawn.

    Image i has seed (sample.seed, i), the same at every scale, and shows class i mod K, or `prompt` where one is given.
    """
    spec = _spec(run.params, guidance, n, prompt, weights)
    name = f"w{guidance:g}" if prompt is None else "null-caption" if prompt == NULL else "prompt"
    folder = path_of(run, name, spec)
    if not folder.exists() and not run.recorded and pool.wanted(run.params):
        pool.do(run, "draw", guidance=guidance, n=n, prompt=prompt, weights=weights)

    def make():
        sampler = Sampler(run, spec["weights"])

        def part(index: torch.Tensor) -> torch.Tensor:
            *_, (_, x) = sampler.steps(guidance, index, prompt)
            return to_uint8(x.cpu(), *run.params.data.range)

        images, seconds = in_parts(run, folder, n, run.params.sample.batch, part)
        return images, {"labels": sampler.labels(torch.arange(n)), "seconds_per_image": seconds}

    return image_set(run, name, spec, make)


def trajectory(run: Run, guidance: float, frames: int = 10) -> ImageSet:
    """One sample per class on its way from noise: `frames` moments, each a row of images; the last row is the samples."""
    spec = _spec(run.params, guidance, 10, None, None) | {"frames": frames}

    def make():
        sampler = Sampler(run, spec["weights"])
        states = list(sampler.steps(guidance, torch.arange(10), None))
        chosen = [states[round(i)] for i in torch.linspace(0, len(states) - 1, frames).tolist()]
        images = to_uint8(torch.cat([x for _, x in chosen]).cpu(), *run.params.data.range)
        return images, {"labels": sampler.labels(torch.arange(10)) * frames, "timesteps": [t for t, _ in chosen]}

    return image_set(run, "trajectory", spec, make)


class Sampler:
    """A trained model ready to sample: weights, captions and schedule loaded once."""

    def __init__(self, run: Run, weights: str):
        self.params, self.device = run.params, world().device
        self.model = suit(load_model(run, weights), self.device, run.params.train.precision)
        self.entry = CATALOG[run.params.data.name]
        self.captions = class_captions(run.params.data.caption, self.entry.classes)

    def labels(self, index: torch.Tensor) -> list[int]:
        return (index % len(self.captions)).tolist()

    def steps(self, guidance: float, index: torch.Tensor, prompt: str | None) -> Iterator[tuple[int, torch.Tensor]]:
        """`sample` for the images number `index`, with the run's sampler."""
        p = self.params
        prompts = [self.captions[i] for i in self.labels(index)] if prompt is None else [prompt] * len(index)
        # The known captions go along, so that the stand-in encoder always builds the same vocabulary.
        table = encode(p.text, [*prompts, NULL, *self.captions]).to(self.device)
        cond, uncond = table[: len(prompts)], table[len(prompts)].expand(len(prompts), -1, -1)
        seeds = [(p.sample.seed << 32) + i for i in index.tolist()]
        shape = (self.entry.channels, p.data.resolution, p.data.resolution)
        denoise = classifier_free(self._model, cond, uncond, guidance)
        return sample(denoise, scheduler(p.diffusion, p.sample.sampler), shape, seeds, p.sample.steps, self.device)

    def _model(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.train.precision == "bf16"):
            return self.model(x, t, cond, return_dict=False)[0].float()


def _spec(params: Params, guidance: float, n: int, prompt: str | None, weights: str | None) -> dict:
    s = params.sample
    return {
        "guidance": float(guidance), "n": n, "prompt": prompt, "weights": weights or s.weights,
        "sampler": s.sampler, "steps": s.steps, "seed": s.seed,
    }  # fmt: skip


def draw_now(run: Run, prompt: str, guidance: float, seed: int, n: int) -> torch.Tensor:
    """n images (n, C, H, W) uint8 of one prompt, kept nowhere."""
    sampler = Sampler(run, run.params.sample.weights)
    *_, (_, x) = sampler.steps(guidance, seed * n + torch.arange(n), prompt)
    return to_uint8(x.cpu(), *run.params.data.range)

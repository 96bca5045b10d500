"""A trained model ready to sample: weights, captions, schedule and guidance put together."""

from collections.abc import Iterator

import torch

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.source import conditions, sample_labels
from guidebook.config.schema import Method, Solver
from guidebook.diffusion import guidance
from guidebook.diffusion.objective import process, scheduler
from guidebook.models.space import space
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.runtime.seeds import generator
from guidebook.training.loop import load_model


# x_{t−1} ~ p_θ(x_{t−1} | x_t), from x_T ~ N(0, I)   (Ho et al. 2020, algorithm 2; Song et al. 2021 for DDIM)
@torch.no_grad()
def sample(
    denoise: guidance.Denoise,
    noise_scheduler,  # a diffusers scheduler with its timesteps set
    shape: tuple[int, int, int],  # (C, H, W)
    seeds: list[int],  # one per image: an image does not depend on those sampled beside it
    eta: float = 0.0,  # of DDIM
    start: torch.Tensor | None = None,  # (B, C, H, W) noise to begin with in the place of the seeds'
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yields `(t, x)` after every step, x (B, C, H, W) float32; the last x is the sample.

    The noise is drawn on the CPU, so a seed means the same noise on every device and in every batch. What is left of the
    batch is the order of floating-point sums: about 1e-4 of the value range on a CPU in fp32.
    """
    rngs = [generator(seed, "image") for seed in seeds]
    timesteps = noise_scheduler.timesteps
    drawn = torch.stack([torch.randn(shape, generator=rng) for rng in rngs])
    x = (drawn if start is None else start).to(timesteps.device)
    x = x * noise_scheduler.init_noise_sigma
    name = type(noise_scheduler).__name__
    told = {"generator": rngs} if name == "DDPMScheduler" else {}
    if name == "DDIMScheduler":
        # Where x0 is clipped the noise follows it, else the way leads out of the range under strong guidance.
        told = {"generator": rngs, "eta": eta, "use_clipped_model_output": True}
    for t in timesteps:
        predicted = denoise(noise_scheduler.scale_model_input(x, t), t)
        x = noise_scheduler.step(predicted, t, x, **told).prev_sample
        yield t.item(), x


class Sampler:
    """A run's model ready to sample: weights, captions and schedule loaded once."""

    def __init__(self, run: Run, weights: str, at: int | None = None):
        self.params, self.device = run.params, world().device
        self.model = load_model(run, weights, at).place(self.device, run.params.train)
        if run.params.train.precision == "bf16":
            self.model.halve()
        self.space, self.conditions = space(run.params), conditions(run.params)
        self.space.same(run.provenance().get("autoencoder"))
        self.process = process(run.params.objective, self.device)
        self.rows = 0  # images that went through the network

    def labels(self, index: torch.Tensor) -> list[int]:
        """The class each of the images number `index` shows, or its attributes as bits."""
        return sample_labels(self.params, index).tolist()

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) uint8, on the CPU, of samples x."""
        return self.space.images(x)

    def steps(
        self,
        w: float,
        index: torch.Tensor,  # numbers of images (B,)
        prompt: str | list[str] | None = None,  # of all of them, or of each; None gives each the caption of its label
        solver: Solver | None = None,  # None: the run's
        method: Method | None = None,  # None: classifier-free guidance
        guide: "Sampler | None" = None,  # the worse model of autoguidance
        start: torch.Tensor | None = None,  # noise (B, *shape) to begin with; None: that of the images' seeds
    ) -> Iterator[tuple[float, torch.Tensor]]:
        """`sample` for the images number `index`, guided at scale `w`."""
        p = self.params
        solver = solver or p.sample
        _refuse(solver, method, prompt, guide)
        # The noise of cfg-plus-plus is not that of the guided image, so no clip may mend it.
        clip = not p.model.vae and (method is None or method.name != "cfg-plus-plus")
        noise_scheduler = scheduler(p.objective, solver.sampler, solver.spacing, clip)
        noise_scheduler.set_timesteps(solver.steps, device=self.device)
        if prompt is None:
            cond = self.conditions(sample_labels(p, index), index)
        else:
            cond = self.conditions.prompts([prompt] * len(index) if isinstance(prompt, str) else prompt)
        cond, uncond = cond.tokens, self.conditions.prompts([NULL] * len(index)).tokens
        both = (self, cond, uncond, w)
        told = method.settings if method else {}
        match method and method.name:
            case None:
                denoise = guidance.classifier_free(*both)
            case "interval":
                denoise = guidance.interval(*both, self.process, **told)
            case "rescaled":
                denoise = guidance.rescaled(*both, **told)
            case "cfg-plus-plus":
                denoise = guidance.cfg_plus_plus(*both, self.process, noise_scheduler)
            case "projected":
                denoise = guidance.projected(*both, self.process, **told)
            case "autoguidance":
                denoise = guidance.autoguidance(self, guide, cond, w)
            case "classifier":
                from guidebook.diffusion.classifier import noisy_classifier

                labels, classifier = torch.tensor(self.labels(index), device=self.device), noisy_classifier(p)
                denoise = guidance.by_classifier(
                    self, uncond, w, self.process, lambda x, t: classifier.log_prob(x, t, labels)
                )
        seeds = [(p.sample.seed << 32) + i for i in index.tolist()]
        return sample(denoise, noise_scheduler, self.space.shape, seeds, solver.eta, start)

    def evaluations(self, w: float, solver=None, method=None, guide=None) -> int:
        """How often the network is asked for one image, its guide's answers included."""
        both = [self, *([guide] if guide else [])]
        before = sum(s.rows for s in both)
        for _ in self.steps(w, torch.zeros(1, dtype=torch.int64), None, solver, method, guide):
            pass
        return sum(s.rows for s in both) - before

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """What the network predicts of x (B, C, H, W) at timestep t with captions cond (B, L, D)."""
        self.rows += len(x)
        if self.params.train.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.train.precision == "bf16"):
            return self.model(x, t, Condition(tokens=cond)).float()


def _refuse(solver: Solver, method: Method | None, prompt: str | None, guide: Sampler | None) -> None:
    """Raises ValueError where a way to guide would mean something else with this solver, prompt or guide."""
    name = method and method.name
    if (name == "autoguidance") != (guide is not None):
        told = f"{name or 'classifier-free'} guidance with{'' if guide else 'out'} a guide"
        raise ValueError(f"autoguidance needs a guide, and no other method takes one, but this is {told}")
    if name == "cfg-plus-plus" and (solver.sampler != "ddim" or solver.eta):
        raise ValueError(f"cfg-plus-plus is made for ddim with eta = 0, not {solver.sampler} with eta = {solver.eta:g}")
    if name == "projected" and solver.sampler == "heun":
        raise ValueError(
            "projected guidance remembers the step before, and heun asks twice a step: take another sampler"
        )
    if name == "classifier" and prompt is not None:
        raise ValueError(f"classifier guidance knows the classes only, not the prompt {prompt!r:.60}")

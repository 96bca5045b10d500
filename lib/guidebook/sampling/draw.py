"""Sets of samples: drawn once with everything that says how, found afterwards."""

import torch

from guidebook.conditioning.captions import NULL
from guidebook.config.schema import Method, Solver
from guidebook.runs import pool
from guidebook.runs.preemption import stopping
from guidebook.runs.run import Run, opened
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.sets import ImageSet, image_set, in_parts, path_of


def draw(
    run: Run,
    guidance: float,
    n: int,
    prompt: str | None = None,
    weights: str | None = None,
    solver: Solver | None = None,
    method: Method | None = None,
    guide: Run | None = None,  # whose model autoguidance leads away from
    at: int | None = None,  # images seen: the model as it was then
) -> ImageSet:
    """n samples at one guidance scale: found in the run folder, else drawn.

    Image i has seed (sample.seed, i), the same at every scale and by every method, and shows class i mod K, or `prompt` where
    one is given.
    """
    if solver and all(getattr(solver, k) == getattr(run.params.sample, k) for k in Solver.model_fields):
        solver = None  # the run's own: the same set
    spec = spec_of(run, guidance, n, prompt, weights, solver, method, guide, at)
    name = f"w{guidance:g}" if prompt is None else "null-caption" if prompt == NULL else "prompt"
    name = "-".join([name, *([solver.sampler] if solver else []), *([method.name] if method else [])])
    folder = path_of(run, name, spec)
    if not folder.exists() and not run.recorded and pool.wanted(run.params):
        told = {
            "guidance": guidance,
            "n": n,
            "prompt": prompt,
            "weights": weights,
            "at": at,
            "guide": guide and str(guide.path),
        }
        pool.do(run, "draw", **told, **{k: v and v.model_dump() for k, v in (("solver", solver), ("method", method))})

    def make():
        sampler = Sampler(run, spec["weights"], at)
        other = guide and Sampler(guide, spec["weights"])

        def steps(index: torch.Tensor):
            return sampler.steps(guidance, index, prompt, solver, method, other)

        if method and method.name == "classifier":  # trained before parts are timed
            from guidebook.diffusion.classifier import noisy_classifier

            with stopping(run):
                noisy_classifier(run.params)

        def part(index: torch.Tensor) -> torch.Tensor:
            *_, (_, x) = steps(index)
            return sampler.images(x)

        images, seconds = in_parts(run, folder, n, run.params.sample.batch, part)
        return images, {
            "labels": sampler.labels(torch.arange(n)),
            "seconds_per_image": seconds,
            "evaluations": sampler.evaluations(guidance, solver, method, other),
        }

    return image_set(run, name, spec, make)


def draw_told(run: Run, solver: dict | None, method: dict | None, guide: str | None, **told) -> ImageSet:
    """`draw` with everything in the words of JSON."""
    from pathlib import Path

    sections = {"solver": solver and Solver(**solver), "method": method and Method.model_validate(method, strict=False)}
    return draw(run, **told, **sections, guide=guide and opened(Path(guide)))


def trajectory(run: Run, guidance: float, frames: int = 10) -> ImageSet:
    """One sample per class on its way from noise: `frames` moments, each a row of images; the last row is the samples."""
    spec = spec_of(run, guidance, 10) | {"frames": frames}

    def make():
        sampler = Sampler(run, spec["weights"])
        states = list(sampler.steps(guidance, torch.arange(10)))
        chosen = [states[round(i)] for i in torch.linspace(0, len(states) - 1, frames).tolist()]
        images = sampler.images(torch.cat([x for _, x in chosen]))
        return images, {"labels": sampler.labels(torch.arange(10)) * frames, "timesteps": [t for t, _ in chosen]}

    return image_set(run, "trajectory", spec, make)


def draw_now(run: Run, prompt: str, guidance: float, seed: int, n: int) -> torch.Tensor:
    """n images (n, C, H, W) uint8 of one prompt, kept nowhere."""
    sampler = Sampler(run, run.params.sample.weights)
    *_, (_, x) = sampler.steps(guidance, seed * n + torch.arange(n), prompt)
    return sampler.images(x)


def spec_of(
    run: Run, guidance: float, n: int, prompt=None, weights=None, solver=None, method=None, guide=None, at=None
) -> dict:
    """What a set of samples depends on besides the training. What is as usual is not said."""
    s, solver = run.params.sample, solver or run.params.sample
    usual = {
        "guidance": float(guidance), "n": n, "prompt": prompt, "weights": weights or s.weights,
        "sampler": solver.sampler, "steps": solver.steps, "seed": s.seed,
    }  # fmt: skip
    return usual | {
        **({"eta": solver.eta} if solver.eta else {}),
        **({"spacing": solver.spacing} if solver.spacing != "leading" else {}),
        **({"method": method.name, "settings": method.settings} if method else {}),
        **({"guide": guide.params.training_key} if guide else {}),
        **({"at": at} if at is not None else {}),
    }

"""A trained run ready to sample: network, condition, guidance and solver; and the images of a set, drawn part by part."""

import copy
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidebook.conditioning.captions import NULL, caption_of, check_prompts, label_of
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.grammar import switched
from guidebook.conditioning.source import conditions, sample_labels
from guidebook.config.params import check
from guidebook.config.sampling import Guidance
from guidebook.diffusion import guidance
from guidebook.diffusion.objective import Network, objective
from guidebook.diffusion.solvers import sample, times
from guidebook.models.space import space
from guidebook.runs import preemption
from guidebook.runs.artifact import Parts, arrays, artifact, notes
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.runtime.lanes import Lanes
from guidebook.runtime.seeds import generator
from guidebook.sampling.spec import Draw, guide_run
from guidebook.training.model import load_model


class RunNetwork:
    """A run's network with one set of weights, in evaluation mode."""

    def __init__(self, run: Run, weights: str, at: int | None = None):
        self.train, self.device = run.params.train, world().device
        self.model = load_model(run, weights, at).place(self.device, self.train)
        if self.train.precision == "bf16":
            self.model.halve()

    def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """F (B, C, H, W) float32 at x (B, C, H, W), times t (B,) and the condition of B images."""
        with Lanes(len(x)) as lanes:
            return torch.cat(lanes.map(lambda rows: self._part(x[rows], t[rows], cond[rows]), len(x)))

    def _part(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self.train.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16"):
            return self.model(x, t, cond).float()


class Sampler:
    """The sampler of a `Draw`: weights, captions and objective are loaded once."""

    def __init__(self, run: Run, draw: Draw):
        self.params, self.draw, self.device = run.params, draw, world().device
        self.net, self.guide = RunNetwork(run, draw.weights, draw.at), None
        if guide := draw.guidance.against:
            self.guide = RunNetwork(guide_run(run, guide), guide.weights or draw.weights, guide.at)
        self.space, self.source = space(run.params, run.provenance().get("autoencoder")), conditions(run.params)
        self.objective = objective(run.params.objective, dtype=torch.float64)
        # Latents have no range.
        self.limits = None if run.params.model.vae else guidance.RANGE

    def labels(self, index: Tensor) -> list[int]:
        """The class each of the images number `index` shows, or its attributes as bits; -1 of a prompt that is no class's caption."""
        if self.draw.prompt is not None:
            return [label_of(self.params, self.draw.prompt)] * len(index)
        return sample_labels(self.params, index).tolist()

    def images(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8, on the CPU, of samples x."""
        return self.space.images(x)

    def steps(
        self,
        index: Tensor,  # numbers of images (B,), which give seeds and labels
        prompts: list[str] | None = None,  # of each; None: the draw's, or the caption of each label
        start: Tensor | None = None,  # noise (B, *shape) to begin with; None: that of the images' seeds
    ) -> Iterator[tuple[float, Tensor]]:
        """`sample` for the images number `index`."""
        rngs = [generator((self.draw.seed << 32) + i, "image") for i in index.tolist()]
        denoise = self._denoiser(self.net, self.guide, index, self.draw.prompt if prompts is None else prompts)
        return sample(denoise, self.objective, self.draw.solver, self.space.shape, rngs, self.device, start)

    def evaluations(self) -> int:
        """Network evaluations of one image, its guide's included."""
        count = 0

        def net(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            nonlocal count
            count += len(x)
            return torch.zeros_like(x)

        denoise = self._denoiser(net, net, torch.zeros(1, dtype=torch.int64), self.draw.prompt)
        for _ in sample(denoise, self.objective, self.draw.solver, self.space.shape, [generator(0)], self.device):
            pass
        return count

    def _denoiser(self, net: Network, guide: Network | None, index: Tensor, prompt: str | list[str] | None):
        way, classifier = self.draw.guidance, {}
        if prompt is None:
            cond = self.source(sample_labels(self.params, index), index)
        else:
            prompts = [prompt] * len(index) if isinstance(prompt, str) else prompt
            check_prompts(self.params, prompts)
            cond = self.source.prompts(prompts)
        if way.against:
            pair = guidance.good_and_bad(self.objective, net, guide, cond)
        else:
            uncond = self.source.prompts([NULL] * len(index))
            pair = guidance.conditional_or_not(self.objective, net, cond, uncond)
        if way.combine == "classifier":
            from guidebook.diffusion.classifier import noisy_classifier

            labels, network = torch.tensor(self.labels(index), device=self.device), noisy_classifier(self.params)
            classifier["log_prob"] = lambda x, t: network.log_prob(x, t, labels)
        return guidance.guide(pair, way, self.limits, **classifier)


def draw_now(run: Run, prompts: Sequence[str], scales: Sequence[float], index: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) uint8 of N prompts, each at its guidance scale, from the noise of images number `index`; kept nowhere."""
    sampler, images, size = copy.copy(_usual(run)), {}, run.params.sample.batch
    for w in dict.fromkeys(scales):
        sampler.draw = Draw.of(run.params, check({"w": w}, "guidance", Guidance), 1)
        rows = [i for i, scale in enumerate(scales) if scale == w]
        for part in (rows[first : first + size] for first in range(0, len(rows), size)):
            *_, (_, x) = sampler.steps(torch.tensor([index[i] for i in part]), [prompts[i] for i in part])
            images |= dict(zip(part, sampler.images(x), strict=True))
    return torch.stack([images[i] for i in range(len(scales))])


@functools.lru_cache(maxsize=1)
def _usual(run: Run) -> Sampler:
    """The sampler of a run's own weights, which the next call finds loaded."""
    return Sampler(run, Draw.of(run.params, 1.0, 1))


def drawn(run: Run, draw: Draw, folder: Path) -> tuple[Tensor, dict]:
    """Images (n, C, H, W) uint8 of the set that `folder` is for, and facts of them; the processes take turns.

    Parts that were drawn before an interruption are found. Raises Preempted between two parts, and OSError where the disk is full.
    """
    sampler = Sampler(run, draw)
    plan = _plan(draw, sampler)
    # A classifier that guides is trained here, not while parts are timed.
    facts = {"labels": plan.labels, "clipped": sampler.limits, "evaluations": sampler.evaluations()}
    moments, size = [-1], run.params.sample.batch
    if draw.kind == "trajectory":  # one part, which has more images than samples
        moments, size = [round(i) for i in torch.linspace(0, draw.solver.steps - 1, draw.columns).tolist()], draw.n
        visited = times(sampler.objective, draw.solver)
        facts["timesteps"] = [round(t) for t in visited[moments].tolist()]

    def part(first: int, end: int) -> tuple[dict, list[float]]:
        started = time.perf_counter()
        prompts, start = (rows if rows is None else rows[first:end] for rows in (plan.prompts, plan.start))
        states = list(sampler.steps(plan.index[first:end], prompts, start))
        images = sampler.images(torch.cat([states[i][1] for i in moments]))
        return {"images": images.numpy()}, [time.perf_counter() - started]

    shape = (run.params.data.entry.channels, *[run.params.data.resolution] * 2)
    parts = Parts([*range(0, draw.n, size), draw.n], {"images": (shape, "uint8")})
    made = artifact(folder.parent, f".parts-{draw.name}", {"draw": draw.json}, part, parts, f"drawing {folder.name}")
    facts["seconds_per_image"] = sum(notes(made)) / draw.n
    return torch.from_numpy(arrays(made)["images"]), facts


def drawn_alone(run: Run, draw: Draw) -> tuple[Tensor, dict]:
    """Images (n, C, H, W) uint8 of a set, one at a time, and the seconds that each took; the first, drawn twice, warms up.

    Raises Preempted.
    """
    sampler, index, stop = Sampler(run, draw), torch.arange(draw.n), preemption.current()

    def one(i: int) -> tuple[Tensor, float]:
        if stop.asked():
            stop.obey("drawing samples one by one")
        started = time.perf_counter()
        *_, (_, x) = sampler.steps(index[i : i + 1])
        return sampler.images(x), time.perf_counter() - started

    one(0)
    images, seconds = zip(*map(one, range(draw.n)), strict=True)
    facts = {"labels": sampler.labels(index), "seconds_per_image": sum(seconds) / draw.n, "seconds": seconds}
    return torch.cat(images), facts


@dataclass(frozen=True)
class Plan:
    """The label and the initial noise of each image of a set of N."""

    index: Tensor  # (N,) numbers of images, which give their noise
    labels: list[int]  # N
    prompts: list[str] | None = None  # N captions; None: the draw's prompt, or those of the labels
    start: Tensor | None = None  # noise (N, *shape) in place of that of the index


def _plan(draw: Draw, sampler: Sampler) -> Plan:
    if draw.kind in ("samples", "trajectory"):
        moments = draw.columns if draw.kind == "trajectory" else 1
        index = torch.arange(draw.n // moments)
        return Plan(index, sampler.labels(index) * moments)
    each = 1 + len(draw.edits) if draw.kind == "edits" else draw.columns
    first, index = sampler.labels(torch.arange(draw.n // each)), torch.arange(draw.n // each).repeat_interleave(each)
    if draw.kind == "edits":
        labels = [label for face in first for label in (face, *(switched(face, name) for name in draw.edits))]
    else:
        labels = [label for label in first for _ in range(each)]
    captions = [caption_of(sampler.params, label, i) for label, i in zip(labels, index.tolist(), strict=True)]
    return Plan(index, labels, captions, None if draw.kind == "edits" else _great_circles(draw, sampler.space.shape))


def _great_circles(draw: Draw, shape: tuple[int, int, int]) -> Tensor:
    """Noise (n, *shape) that turns, in each row, from that of one seed to that of another."""
    rows, shares = draw.n // draw.columns, torch.linspace(0, 1, draw.columns)[:, None, None, None]
    ends = [torch.randn(shape, generator=generator(draw.seed, "end", i)) for i in range(2 * rows)]
    return torch.cat([slerp(a, b, shares) for a, b in zip(ends[::2], ends[1::2], strict=True)])


# sin((1 − s) Ω) / sin Ω · a + sin(s Ω) / sin Ω · b,  cos Ω = a · b / (|a| |b|)   (Shoemake 1985)
def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Between a and b (C, H, W), at each share (n, 1, 1, 1) of the angle between them."""
    angle = torch.acos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)

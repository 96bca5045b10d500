"""The random numbers of a training step: functions of the seed and of the images seen, whoever computes."""

from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.config.params import Params
from guidebook.diffusion.objective import Objective
from guidebook.models.space import Latents, Pixels
from guidebook.runtime.distributed import world
from guidebook.runtime.seeds import generator


class Noise(NamedTuple):
    """The random numbers of a step, for this process's n images."""

    t: Tensor  # (n,) training times
    dropped: Tensor  # (n,) whose text is replaced by the null caption
    eps: Tensor  # (n, *shape) ε
    mirrored: Tensor  # (n,)
    posterior: Tensor  # (n, *shape) for draws of the autoencoder's posterior; (n, 0) in pixel space


def step_noise(params: Params, nimg: int, objective: Objective, where: Pixels | Latents) -> Noise:
    """Every process draws for the whole batch and takes its share: any number of processes sees the same noise."""
    t, device, k, n = params.train, world().device, world().process_index, world().num_processes
    rng = generator(t.seed, "step", nimg, device=device)
    times = objective.random_times(t.batch, rng)
    dropped = torch.rand(t.batch, generator=rng, device=device) < t.caption_dropout
    eps = torch.randn(t.batch, *where.shape, generator=rng, device=device)
    mirrored = torch.rand(t.batch, generator=rng, device=device) < (0.5 if params.data.flips else 0.0)
    return Noise(*(x[k::n] for x in (times, dropped, eps, mirrored, where.noise(t.batch, rng))))

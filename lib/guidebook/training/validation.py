"""The validation loss: of held-out images at fixed noise and noise levels, so that nothing but the weights changes it."""

import torch
from torch import Tensor

from guidebook.conditioning.condition import Condition
from guidebook.data.images import spread
from guidebook.runtime.distributed import world
from guidebook.runtime.seeds import generator
from guidebook.training.attention import AttentionStatistics
from guidebook.training.step import Trainer

IMAGES = 64  # held-out images, each at every level
LEVELS = 8  # of noise, from the image on: the middles of so many equal shares of the training times
SEED = 0  # of the noise: that of every training, so that their losses compare


class Validation:
    """The loss of the same held-out images, with the same captions, noise and times, at each call."""

    def __init__(self, trainer: Trainer):
        self._trainer, self._fixed = trainer, None

    @torch.no_grad()
    def __call__(self) -> dict:
        """Fields of a line of `stats.jsonl`: the mean loss; by level, from the image on, that of all images and its standard error.

        Where the network attends, what its attention does then. No fields where this is not the main process, or less than two images are held out.
        """
        trainer = self._trainer
        if not world().is_main_process:
            return {}
        self._fixed = self._fixed or _fixed(trainer)
        x0, cond, noise, times = self._fixed
        if len(x0) < 2:
            return {}
        trainer.model.eval()
        with (
            (attention := AttentionStatistics()),
            torch.autocast(x0.device.type, torch.bfloat16, enabled=trainer.params.train.precision == "bf16"),
        ):
            # `forward`, because what `compile` made is for batches of another size
            net, loss = trainer.model.forward, trainer.objective.loss
            losses = [loss(net, x0, eps, t.expand(len(x0)), cond) for eps, t in zip(noise, times, strict=True)]
        trainer.model.train()
        each = torch.stack(losses).cpu()  # (levels, images)
        return {
            "validation_loss": each.mean().item(),
            "validation_loss_by_level": each.mean(1).tolist(),
            "validation_error_by_level": (each.std(1) / each.shape[1] ** 0.5).tolist(),
            **attention.facts(),
        }


def _fixed(trainer: Trainer) -> tuple[Tensor, Condition, Tensor, Tensor]:
    """x_0 (n, *shape) of n images spread over the held-out ones, their captions, noise (levels, n, *shape) and times (levels,)."""
    where, objective, device = trainer.space, trainer.objective, trainer.device
    held = spread(trainer.data, IMAGES)
    rng = generator(SEED, "validation", device=device)
    x0 = where.encoded(held.images.to(device), rng)
    noise = torch.randn(LEVELS, len(x0), *where.shape, generator=rng, device=device)
    times = objective.times((torch.arange(LEVELS, device=device) + 0.5) / LEVELS)
    cond = trainer.conditions(held.labels, torch.arange(len(held)))
    return x0, cond, noise, times.long() if objective.timesteps else times

"""The training loop of the small networks beside the model: judges, the classifier of noisy images, the embedded autoencoder."""

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from guidebook.runs import preemption
from guidebook.runs.artifact import place
from guidebook.runs.manifest import write
from guidebook.runtime.seeds import seed_of

log = logging.getLogger(__name__)


def fit(
    file: Path,  # where the state lies while the training is stopped
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
    loss: Callable[[int], torch.Tensor],  # of a step, a function of its number and the weights
    what: str,  # in words, for the progress bar
    clip: float | None = None,  # largest norm of the gradient
) -> None:
    """Trains a network in place, to evaluation mode; after a stop it continues, bit for bit as if there had been none.

    torch's own CPU generator (dropout) is seeded anew for every step. Called where an `artifact` is made: of several processes one
    trains while the others wait. They could not answer, so there the poll is no collective call (`distributed.solo`). Raises Preempted,
    and OSError where the disk is full.
    """
    done = _load(file, network, optimizer, schedule)
    network.train()
    with torch.random.fork_rng(devices=[]):
        for step in tqdm(range(done, steps), what, steps, initial=done, unit="step", mininterval=1):
            torch.default_generator.manual_seed(seed_of("fit", step))
            loss(step).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step + 1 < steps and preemption.current().asked():
                _save(file, step + 1, network, optimizer, schedule, what)
                preemption.current().obey(f"training the {what} after {step + 1:,} of {steps:,} steps")
    network.eval()
    file.unlink(missing_ok=True)


def state_of(root: Path, name: str, spec: Any) -> Path:
    """Where the state of a stopped training lies: beside the artifact that it is for."""
    return root / f".{place(root, name, spec).name}.fit"


def _save(file: Path, step: int, network, optimizer, schedule, what: str) -> None:
    """The state as `torch.save` writes it, which keeps each tensor's memory format, after its sha256."""
    made = io.BytesIO()
    torch.save((step, network.state_dict(), optimizer.state_dict(), schedule.state_dict()), made)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, hashlib.sha256(made.getbuffer()).digest() + made.getbuffer(), f"the state of the {what}")


def _load(file: Path, network, optimizer, schedule) -> int:
    """The number of steps that were made, with their state put back; 0 where there is none, or not as it was written."""
    if not file.exists():
        return 0
    checksum, state = (raw := file.read_bytes())[:32], raw[32:]
    if hashlib.sha256(state).digest() != checksum:
        log.warning("%s is not what was written: the training begins anew", file.name)
        return 0
    step, *states = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    for part, kept in zip((network, optimizer, schedule), states, strict=True):
        part.load_state_dict(kept)
    return step

"""The training loop of the small networks beside the model: judges, the classifier of noisy images, the embedded autoencoder."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from guidebook.runs import preemption
from guidebook.runs.artifact import place
from guidebook.runs.manifest import write
from guidebook.runs.progress import Bar
from guidebook.runtime.seeds import seed_of

log = logging.getLogger(__name__)
EVERY = 30  # seconds between saves


def fit(
    file: Path,  # where the state lies until the training is done, as safetensors
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
    loss: Callable[[int], torch.Tensor],  # of a step, a function of its number and the weights
    what: str,  # in words, for the progress bar
    clip: float | None = None,  # largest norm of the gradient
) -> None:
    """Trains a network in place, to evaluation mode; after a stop it continues, bit for bit as if there had been none. A process
    that is killed repeats half a minute at most.

    torch's own CPU generator (dropout) is seeded anew for every step. Called where an `artifact` is made: of several processes one
    trains while the others wait. They could not answer, so there the poll is no collective call (`distributed.solo`). Raises Preempted,
    and OSError where the disk is full.
    """
    done = _load(file, network, optimizer, schedule)
    network.train()
    saved = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        for step in Bar(range(done, steps), f"training the {what}", steps, initial=done, unit="step"):
            torch.default_generator.manual_seed(seed_of("fit", step))
            loss(step).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            stop = step + 1 < steps and preemption.current().asked()
            if stop or time.monotonic() - saved > EVERY:
                _save(file, step + 1, network, optimizer, schedule, what)
                saved = time.monotonic()
            if stop:
                preemption.current().obey(f"training the {what} after {step + 1:,} of {steps:,} steps")
    network.eval()
    file.unlink(missing_ok=True)


def state_of(root: Path, name: str, spec: Any) -> Path:
    """Where the state of a stopped training lies: beside the artifact that it is for."""
    return root / f".{place(root, name, spec).name}.fit"


def _save(file: Path, step: int, network, optimizer, schedule, what: str) -> None:
    """Tensors by name, and all else as JSON with a checksum of both."""
    state = optimizer.state_dict()
    tensors = {f"network.{name}": x for name, x in network.state_dict().items()}
    for i, entry in state["state"].items():
        tensors |= {f"optimizer.{i}.{name}": x for name, x in entry.items() if x is not None}
    tensors = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    rest = json.dumps({"step": step, "groups": state["param_groups"], "schedule": schedule.state_dict()})
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, save(tensors, {"rest": rest, "sha256": _checksum(tensors, rest)}), f"the state of the {what}")


def _load(file: Path, network, optimizer, schedule) -> int:
    """The number of steps that were made, with their state put back; 0 where there is none, or not as it was written."""
    if not file.exists():
        return 0
    try:
        with safe_open(file, "pt") as kept:
            tensors, facts = {name: kept.get_tensor(name) for name in kept.keys()}, kept.metadata()  # noqa: SIM118
        if facts["sha256"] != _checksum(tensors, facts["rest"]):
            raise ValueError
    except (SafetensorError, ValueError, KeyError, TypeError):
        log.warning("%s is not what was written: the training begins anew", file.name)
        return 0
    rest, state = json.loads(facts["rest"]), {}
    network.load_state_dict({n.removeprefix("network."): x for n, x in tensors.items() if n.startswith("network.")})
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for name in (n for n in tensors if n.startswith("optimizer.")):
        _, i, key = name.split(".")
        x, like = tensors[name], weights[int(i)]
        # In the memory format of its weight, for that decides in which order sums are rounded.
        x = torch.empty_like(like).copy_(x) if x.shape == like.shape else x
        state.setdefault(int(i), {})[key] = x
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})
    schedule.load_state_dict(rest["schedule"])
    return rest["step"]


def _checksum(tensors: dict[str, torch.Tensor], rest: str) -> str:
    checksum = hashlib.sha256(rest.encode())
    for name, x in sorted(tensors.items()):
        checksum.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        checksum.update(x.numpy())
    return checksum.hexdigest()

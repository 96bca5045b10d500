"""Provenance of a training: where it ran, with which code and on which data."""

import re
from datetime import UTC, datetime
from pathlib import Path

import torch

from guidebook.conditioning.encoders import width
from guidebook.config.datasets import DataError
from guidebook.data.images import Streamed
from guidebook.models import initial
from guidebook.runs.lock import job_id
from guidebook.runs.run import Run, commit
from guidebook.runtime.distributed import world
from guidebook.training.ema import decay_at
from guidebook.training.step import Trainer


def describe(run: Run, trainer: Trainer) -> None:
    """Notes where this training runs and with which code, an entry per resumption. Raises DataError where it began on other data."""
    known, data = run.provenance(), trainer.data
    before = known.get("data", {}).get("fingerprint", data.fingerprint)
    if before != data.fingerprint:
        raise DataError(
            f"{run.name} began on data {before}, now there is {data.fingerprint}: put the first data back, or delete {run.path}"
        )
    if not world().is_main_process:
        return
    where = {"device": device_name(trainer.device), "processes": world().num_processes}
    began = {"from": trainer.nimg, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    entries = [*known.get("stretches", []), {**began, **commit(), **where, "job": job_id()}]
    vae = {"autoencoder": trainer.space.autoencoder.name} if run.params.model.vae else {}
    text = run.params.text
    shapes = {"latent" if vae else "image": list(trainer.space.shape), "caption": [text.tokens, width(text)]}
    facts = {"text_encoder": text.encoder, "shapes": shapes, "data_note": data.note, "data": _data(run, trainer)}
    run.note(**vae, **where, **facts, stretches=entries)


def conclude(run: Run, trainer: Trainer) -> None:
    """Notes how long the training lasted, in seconds, images and updates, and of which data it learnt."""
    data, updates = _data(run, trainer), trainer.nimg // run.params.train.batch
    decays = {a.name: decay_at(updates - 1, a.track, a.warmup) for a in trainer.averages}
    facts = {"train_seconds": round(trainer.seconds, 3), "images_seen": trainer.nimg, "updates": updates, "data": data}
    moved = {"moved": _moved(run, trainer)} if run.params.model.init else {}
    run.note(**facts, **({"last_decay": decays} if decays else {}), **moved)


# ‖θ − θ₀‖ / ‖θ₀‖
def _moved(run: Run, trainer: Trainer) -> dict[str, float]:
    """Distance of each kind of weights from those that the training began with, as a share of their norm; and the most that it can be."""
    begun = initial(run.params).state_dict()
    every = {"raw": trainer.model.state_dict()} | {a.name: a.weights for a in trainer.averages}
    norm = sum(w.double().square().sum().item() for w in begun.values()) ** 0.5
    steps, numbers = trainer.nimg // run.params.train.batch, sum(w.numel() for w in begun.values())
    most = {"most": run.params.train.lr * steps * numbers**0.5 / norm}  # a step of Adam is the rate at most, or so
    return most | {
        kind: sum((w.cpu().double() - begun[name].double()).square().sum().item() for name, w in weights.items()) ** 0.5
        / norm
        for kind, weights in every.items()
    }


def _data(run: Run, trainer: Trainer) -> dict:
    """The images it learnt from, and those of them that could not be read: of a stream, known at the end."""
    name, data = run.params.data.name, trainer.data
    rest = {"progressive": data.cache.progressive} if isinstance(data, Streamed) else {}
    return {"name": name, "source": data.source, "fingerprint": data.fingerprint, "skipped": list(data.skipped), **rest}


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of the CPU with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    n = torch.get_num_threads()
    return f"{cpu_name()}, {n} thread{'s' if n > 1 else ''}"


def here() -> str:
    """The device that a training would take on this machine."""
    return device_name(world().device)


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:(.+)", file.read_text() if file.exists() else "", re.MULTILINE)
    return name[1].strip() if name else "CPU"

"""Estimates before a run starts: operations, hours on this device, memory, disk, download."""

import os
import re
from contextlib import suppress
from pkgutil import resolve_name

from guidebook.config import pretrained
from guidebook.config.budget import images, rows, snapshot_steps, updates
from guidebook.config.params import Params, ParamsError
from guidebook.data.files import available
from guidebook.models.counting import cost
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import every_run

GB = 1e9
FP32 = 4  # bytes
MANY = 1024  # images: more than published settings compute at once on a device
# Bytes: of the files as published; what is not here is not known before it is fetched
DOWNLOADS = {"cifar10": 143_646_105, "wikiart": 32_000_000_000, pretrained.SD: 4_264_941_228}
# Numbers in frozen encoders, which stay on the device: of text and of images
FROZEN = {pretrained.CLIP: 63_165_952, pretrained.SD_VAE: 83_653_863, pretrained.SD: 123_060_480 + 83_653_863}


def facts(params: Params) -> dict[str, int | float | str]:
    """Each by its name, with its unit; in words where it is not known."""
    network, (gpu, disk) = cost(params), memory(params)
    return {
        "parameters": network.parameters, "GMAC_per_image": round(network.gmac, 4),
        "GFLOP_per_image": round(network.gflop, 4), "updates": updates(params), "images_seen": images(params),
        "training_hours": hours(params), "memory_GB_of_a_step_(estimate)": round(gpu / GB, 2),
        "disk_GB_(estimate)": round(disk / GB, 2), "download": download(params),
    } | {f"network_{of.name}": _compared(params.replace(model=params.network(of.name))) for of in params.evaluate.networks}  # fmt: skip


def _compared(params: Params) -> str:
    """Costs of a network that the notebook compares, in words."""
    network, (gpu, disk) = cost(params), memory(params)
    return f"{network.parameters:,} parameters, {network.gmac:.4g} GMAC per image, {gpu / GB:.2f} GB of a step, {disk / GB:.2f} of disk"


def hours(params: Params) -> str:
    """Hours of training on this device, by the speed of the newest run of the kind: the same network, images, batch and precision."""
    device = resolve_name("guidebook.training.provenance:here")()
    kind, found = _kind(params), None
    for run in every_run():
        with suppress(Corrupt):  # of another run: `status` names it
            where = run.provenance().get("device", "")
            alike = _processor(where) == _processor(device) and _kind(run.params) == kind
            if alike and (lines := run.stats()):
                found = run, lines[-1].get("images_per_s"), where
    if not (found and found[1]):
        return f"not known: no run of this network and batch has trained on {device}; its first minutes say it"
    run, rate, where = found
    return f"{images(params) / rate / 3600:.2g}, at {rate:,.0f} images/s as in {run.name}, measured on {where}"


def _processor(device: str) -> str:
    """A device without its threads: of trainings side by side each has a few."""
    return re.sub(r", \d+ threads?$", "", device)


def _kind(params: Params) -> list:
    """All that the speed of a training depends on."""
    t, d = params.train, params.data
    precision = t.precision
    if precision == "auto":
        precision = "bf16" if resolve_name("guidebook.runtime.precision:native_bf16")() else "fp32"
    how = [t.batch, t.micro_batch, t.processes, t.channels_last, t.compile, t.gradient_checkpointing, precision]
    return [params.model.model_copy(update={"init": None}), params.text.tokens, d.resolution, d.entry.channels, *how]


# Weights, AdamW's two moments, each average, frozen encoders and images or their latents, always; then the most that activations, the weights in bf16 and the gradient take
def memory(params: Params) -> tuple[int, int]:
    """Bytes that a step takes on each device, and that a training and its samples take on the disk."""
    network, t, d, s = cost(params), params.train, params.data, params.sample
    weights, tracks = FP32 * network.parameters, len(t.ema)
    part = min(t.micro_batch or t.batch, t.batch // t.processes)
    half, gradient = 0 if t.precision == "fp32" else weights // 2, 0 if t.steps_in_backward else weights
    # Where the forward ends and the backward begins; of parts, all but the first find a gradient
    forward = part * network.saved + max(half, part * network.again) + gradient * (part < t.batch // t.processes)
    pixels, streamed = d.entry.channels * d.resolution**2, bool(d.entry.mapped or d.entry.window)
    latents = 0
    if params.model.vae:  # mean and log-variance of each point, in half precision, of mirrored images too
        channels, side = pretrained.latent_shape(params.model.vae)
        latents = rows(d) * (1 + d.flips) * 2 * channels * (d.resolution // side) ** 2 * 2
    step = (3 + tracks) * weights + max(forward, part * network.again + gradient) + frozen(params)
    step += latents or (0 if streamed else rows(d) * pixels)
    sets = len(s.guidance) + sum(len(m.each()) for m in s.methods) + len(s.solvers)
    disk = (t.keep_checkpoints + 1) * (3 + tracks) * weights + (1 + tracks) * weights
    disk += sets * params.evaluate.samples * pixels + latents
    snapshots = -(-updates(params) // snapshot_steps(params))
    disk += snapshots * sum(isinstance(entry, str) for entry in t.ema) * weights // 2  # in half precision
    if streamed:
        disk += (rows(d) + d.entry.test) * pixels  # decoded
    return step, disk


def frozen(params: Params) -> int:
    """Bytes of the frozen encoders of text and images, which stay on the device."""
    return FP32 * sum(FROZEN.get(name, 0) for name in pretrained.named(params))


def check_memory(params: Params) -> None:
    """Raises ParamsError where a step takes more memory than this device has. Of small batches nothing is counted, which takes seconds."""
    t, d = params.train, params.data
    part = min(t.micro_batch or t.batch, t.batch // t.processes)
    noise = FP32 * t.batch * d.entry.channels * d.resolution**2  # of the whole batch
    if part < MANY and t.batch < MANY**2:
        return
    import torch

    cuda, machine = torch.cuda.is_available(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    have = torch.cuda.get_device_properties(0).total_memory if cuda else machine
    if (step := memory(params)[0] + noise) > have:
        size = f"train.batch = {t.batch:,}" + (f" in parts of {part:,}" if part < t.batch else "")
        way = "set a smaller one, or train.micro_batch, which leaves the gradient as it is"
        raise ParamsError(f"{size}: a step takes about {step / GB:,.0f} GB, this device has {have / GB:,.0f}: {way}")


def download(params: Params) -> str:
    """Files still to be fetched, with their size where that is known."""
    missing = [] if available(params.data.name, params.data.subset) else [params.data.name]
    missing += [name for name in pretrained.named(params) if not pretrained.available(name)]
    sizes = [f"{n} {f'{DOWNLOADS[n] / GB:.2g} GB' if n in DOWNLOADS else 'of a size not known here'}" for n in missing]
    return ", ".join(sizes) or "nothing"

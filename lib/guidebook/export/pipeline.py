"""A finished run as a diffusers pipeline: a folder that others load without knowing this library.

A run in latents becomes a stock `StableDiffusionPipeline`, one in pixels a `PixelPipeline`. From the same seeds,
captions, steps and guidance either draws the images that the run's own `Sampler` draws.
"""

import copy
import json
from pathlib import Path

import torch
from diffusers import ConfigMixin, DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline

from guidebook.conditioning.captions import class_captions
from guidebook.conditioning.encoders import parts
from guidebook.conditioning.grammar import PHRASES, WOMAN
from guidebook.config.params import Params
from guidebook.diffusion.solvers import scheduler
from guidebook.export.card import card
from guidebook.export.pixel_pipeline import PixelPipeline
from guidebook.models.autoencoder import autoencoder
from guidebook.models.space import shape_of
from guidebook.runs import manifest
from guidebook.runs.lock import owned
from guidebook.runs.run import Run
from guidebook.runtime.distributed import barrier, world
from guidebook.training.model import load_model

CARD = "README.md"
# The words of a caption of attributes besides those of its attributes
FRAME = "A photo of a, an, with hair and nose, face, sporting, wearing"
MULTIPLE = 8  # StableDiffusionPipeline draws images whose sides this divides


def export(run: Run) -> Path:
    """The folder `pipeline` of a run: sampling weights, text encoder, autoencoder, scheduler, card; each with a manifest.

    Made once and found afterwards; made anew where its card, which names all it depends on, would be another one.
    Raises NotRecorded, FileNotFoundError (not trained to its end), ValueError (a size that diffusers does not draw),
    Locked, manifest.Corrupt, OSError.
    """
    folder, text = run.path / "pipeline", card(run)
    if not folder.is_dir():
        run.needs("the pipeline")
    elif _checked(folder) == text:
        return folder
    if not (run.path / "model").is_dir():
        raise FileNotFoundError(f"{run.name} is not trained to its end: `guidebook run {run.params.experiment}` first")
    if run.params.model.vae and (side := run.params.data.resolution) % MULTIPLE:
        raise ValueError(f"data.resolution = {side}: StableDiffusionPipeline draws multiples of {MULTIPLE} only")
    with owned(run.path):
        if world().is_main_process:
            manifest.delete(folder)
            _save(folder, text, pipeline(run), run_scheduler(run.params))
    barrier()
    return folder


def pipeline(run: Run) -> DiffusionPipeline:
    """The pipeline of a run, in memory, on the CPU. A stock one never takes `steps_offset` 0: see `run_scheduler`."""
    params = run.params
    net, noise_scheduler = load_model(run, params.sample.weights), run_scheduler(params)
    tokenizer, text_encoder = parts(params.text, sayable(params))
    shared = {"text_encoder": text_encoder, "tokenizer": tokenizer}
    if not params.model.vae:
        sections = {"objective": params.objective, "solver": params.sample.solver}
        known = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return PixelPipeline(net, noise_scheduler, **shared, **known, shape=shape_of(params), range=params.data.range)
    vae = copy.deepcopy(autoencoder(params.model.vae, params.data).network)
    shared |= {"unet": net.stock()}
    shared["vae"] = vae.to("cpu", memory_format=torch.contiguous_format)
    shared["scheduler"] = type(noise_scheduler).from_config(noise_scheduler.config, steps_offset=1)
    return StableDiffusionPipeline(**shared, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def run_scheduler(params: Params) -> SchedulerMixin:
    """The scheduler that a run samples with, in settings that a stock pipeline leaves alone.

    `StableDiffusionPipeline` sets `steps_offset` to 1, with a warning. That is read only where timesteps are `leading`:
    there alone it is left at 0, and who loads the pipeline has to put the folder's scheduler back, as the card shows.
    """
    latent = bool(params.model.vae)
    made = scheduler(params.objective, params.sample.solver, clip=not latent)
    return type(made).from_config(made.config, steps_offset=1) if latent and not params.sample.starts_late else made


def sayable(params: Params) -> list[str]:
    """Texts that together hold every word of a run's captions."""
    entry = params.data.entry
    if not entry.attributes:
        return class_captions(params.data.caption, entry.classes)
    return [FRAME, *WOMAN, *(way for ways in PHRASES.values() for way in ways)]


def _save(folder: Path, text: str, made: DiffusionPipeline, noise_scheduler: SchedulerMixin) -> None:
    """Writes the folder or nothing. Each part has a manifest, and so have the files beside the parts."""
    with manifest.whole(folder, "pipeline/") as aside:
        made.save_config(aside)
        (aside / CARD).write_text(text)
        components = {k: v for k, v in made.components.items() if v is not None}
        for name, part in (components | {"scheduler": noise_scheduler}).items():
            if isinstance(part, ConfigMixin):
                part.register_to_config(_name_or_path=name)  # else diffusers writes where it lay on this machine
            part.save_pretrained(aside / name)


def _checked(folder: Path) -> str:
    """The card in a folder. Raises manifest.Corrupt where a file is not what was written."""
    remedy = f"delete {folder} and run again: it is made anew"
    manifest.verify(folder, remedy)
    index = json.loads((folder / "model_index.json").read_text())
    for name, what in index.items():
        if isinstance(what, list) and isinstance(what[0], str):
            manifest.verify(folder / name, remedy)
    return (folder / CARD).read_text()

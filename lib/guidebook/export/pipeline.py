"""A finished run as a diffusers pipeline: a folder that others load without knowing this library.

A run in latents becomes a stock `StableDiffusionPipeline`, one in pixels a `PixelPipeline`, whose code lies in the folder. From the
same seeds, captions, steps and guidance either draws the images that the run's own `Sampler` draws.
"""

import ast
import copy
import importlib
import inspect
import json
from pathlib import Path

import torch
from diffusers import ConfigMixin, DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline

from guidebook.conditioning.captions import sayable
from guidebook.conditioning.encoders import parts
from guidebook.config.params import Params
from guidebook.diffusion.solvers import scheduler
from guidebook.export.card import card
from guidebook.export.pixel_pipeline import PixelPipeline
from guidebook.models.autoencoder import of_run
from guidebook.models.space import shape_of
from guidebook.runs import manifest
from guidebook.runs.lock import owned
from guidebook.runs.run import Run
from guidebook.runtime.distributed import barrier, world
from guidebook.sampling.spec import Draw
from guidebook.training.model import load_model

CARD = "README.md"
MULTIPLE = 8  # StableDiffusionPipeline draws images whose sides this divides


def export(run: Run, folder: Path | None = None) -> Path:
    """A folder, by default `pipeline` of the run: sampling weights, text encoder, autoencoder, scheduler, card; each with a manifest.

    Made once and found afterwards; made anew where its card, which names all it depends on, would be another one.
    Raises NotRecorded, FileNotFoundError (not trained to its end), FileExistsError (other files lie there), ValueError (what diffusers
    does not draw), Locked, manifest.Corrupt, OSError.
    """
    folder, text = folder or run.path / "pipeline", card(run)
    there = folder.is_dir() and any(folder.iterdir())
    if not there:
        run.needs("the pipeline")
    elif not (folder / "model_index.json").exists():
        raise FileExistsError(f"{folder} holds other files: name a new folder")
    elif _checked(folder) == text:
        return folder
    if not (run.path / "model").is_dir():
        raise FileNotFoundError(f"{run.name} is not trained to its end: `guidebook run {run.params.experiment}` first")
    if run.params.model.vae:
        _drawable(run.params)
    with owned(run.path):
        if world().is_main_process:
            manifest.delete(folder)
            _save(folder, text, pipeline(run), run.params)
    barrier()
    return folder


def _drawable(params: Params) -> None:
    """Raises ValueError where the stock pipeline does not draw what a run in latents draws."""
    side, s = params.data.resolution, params.sample
    if side % MULTIPLE:
        raise ValueError(f"data.resolution = {side}: StableDiffusionPipeline draws multiples of {MULTIPLE} only")
    if params.objective.kind != "vp":
        raise ValueError(f"objective.kind = {params.objective.kind}: diffusers draws vp alone in latents")
    walked = run_scheduler(params)
    try:
        walked.set_timesteps(s.steps)
        x = torch.ones(1, 1, 1, 1)
        for t in walked.timesteps:
            x = walked.step(torch.zeros_like(x), t, x).prev_sample
        broken = None if torch.isfinite(x).all() else "not a number"
    except (AssertionError, IndexError) as error:
        broken = str(error) or "an assertion fails"
    if broken:
        way, name = ", ".join(Draw.of(params, 1.0, 1).walk()), type(walked).__name__
        raise ValueError(f"{way}: diffusers' {name} does not draw that ({broken}); take fewer steps")


def pipeline(run: Run) -> DiffusionPipeline:
    """The pipeline of a run, in memory, on the CPU. A stock one never takes `steps_offset` 0: see `run_scheduler`."""
    params = run.params
    net, (tokenizer, text_encoder) = load_model(run, params.sample.weights), parts(params.text, sayable(params))
    shared = {"text_encoder": text_encoder, "tokenizer": tokenizer}
    if not params.model.vae:
        sections = {"objective": params.objective, "solver": params.sample.solver}
        known = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return PixelPipeline(
            net, **shared, **known, shape=shape_of(params), range=params.data.range, pooled=params.model.pooled
        )
    vae = copy.deepcopy(of_run(params).network)
    shared |= {"unet": net.stock()}
    shared["vae"] = vae.to("cpu", memory_format=torch.contiguous_format)
    noise_scheduler = run_scheduler(params)
    shared["scheduler"] = type(noise_scheduler).from_config(noise_scheduler.config, steps_offset=1)
    return StableDiffusionPipeline(**shared, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def run_scheduler(params: Params) -> SchedulerMixin:
    """The scheduler that a run in latents samples with, in settings that a stock pipeline leaves alone.

    `StableDiffusionPipeline` sets `steps_offset` to 1, with a warning. That is read only where timesteps are `leading`:
    there alone it is left at 0, and who loads the pipeline has to put the folder's scheduler back, as the card shows.
    """
    made = scheduler(params.objective, params.sample.solver, clip=False)
    return made if params.sample.starts_late else type(made).from_config(made.config, steps_offset=1)


def _save(folder: Path, text: str, made: DiffusionPipeline, params: Params) -> None:
    """Writes the folder or nothing. Each part has a manifest, and so have the files beside the parts."""
    with manifest.whole(folder, "pipeline/") as aside:
        made.save_config(aside)
        (aside / CARD).write_text(text)
        components = {k: v for k, v in made.components.items() if v is not None}
        if params.model.vae:
            components["scheduler"] = run_scheduler(params)
        for name, part in components.items():
            if isinstance(part, ConfigMixin):
                part.register_to_config(_name_or_path=name)  # else diffusers writes where it lay on this machine
            part.save_pretrained(aside / name)
        if isinstance(made, PixelPipeline):
            # Its code and that of its network, and their names where diffusers looks for code in a folder.
            index = json.loads((aside / "model_index.json").read_text())
            for name, part, file in (("_class_name", made, "pixel_pipeline"), ("unet", made.unet, "unet/network")):
                (aside / f"{file}.py").write_text(one_file(type(part).__module__, set()))
                index[name] = [Path(file).name, type(part).__name__]
            (aside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def one_file(name: str, done: set[str]) -> str:
    """The source of a module and, before it, of those of the library that it imports names from, once each: none that is in `done`.

    What is imported of `guidebook.config` becomes `object`. Imports inside functions stay as they are.
    """
    source, found = inspect.getsource(importlib.import_module(name)), []
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("guidebook."):
            named = " = ".join([*(alias.name for alias in node.names), "object"])
            # Networks and solvers need the configuration for annotations alone.
            configured = node.module.startswith("guidebook.config.")
            lines[node.lineno - 1] = named if configured else ""
            lines[node.lineno : node.end_lineno] = [""] * (node.end_lineno - node.lineno)
            if not configured and node.module not in done:
                done.add(node.module)
                found.append(one_file(node.module, done))
    return "\n\n".join([*found, f"# {name}\n" + "\n".join(lines).strip() + "\n"])


def _checked(folder: Path) -> str:
    """The card in a folder. Raises manifest.Corrupt where a file is not what was written."""
    remedy = f"delete {folder} and run again: it is made anew"
    manifest.verify(folder, remedy)
    index = json.loads((folder / "model_index.json").read_text())
    for name, what in index.items():
        if name[0] != "_" and isinstance(what, list) and isinstance(what[0], str):
            manifest.verify(folder / name, remedy)
    return (folder / CARD).read_text()

"""Conflicts between the sections of the params, p: values that cannot go together, a sentence each."""

import re
from collections.abc import Iterator

from guidebook.config import pretrained
from guidebook.config.errors import shown
from guidebook.config.networks import Patched
from guidebook.config.section import Section

# Solvers, spacings and ways to guide of objectives with discrete timesteps
NEEDS_VP = ("unipc", "leading", "classifier")


def in_sampling(p: Section) -> Iterator[str]:
    """Conflicts of the sampling with the objective and within itself."""
    vp, s = p.objective if p.objective.kind == "vp" else None, p.sample
    for weights in s.all_weights:
        if not p.train.has(weights):
            yield f"sample.weights = {weights!r:.40} must be one of {p.train.tracks[:9]}, which train.ema keeps"
    if len(set(s.guidance)) < len(s.guidance):
        yield f"sample.guidance = {list(s.guidance)[:9]} must name every scale once"
    ways = [name for x in (s, *s.solvers) for name in (x.sampler, x.spacing)] + [m.combine for m in s.methods]
    if not vp and (names := [name for name in NEEDS_VP if name in ways]):
        yield f"sample: {', '.join(names)} needs objective.kind = vp, not {p.objective.kind}"
    if p.objective.kind == "flow" and any(x.sampler == "ddpm" or x.eta for x in (s, *s.solvers)):
        yield "sample: ddpm and eta add noise on the way, and the straight paths of objective.kind = flow have none: take ddim, eta 0"
    if p.objective.kind == "flow" and "karras" in ways:
        yield "sample.spacing = karras needs a finite first noise level, and that of objective.kind = flow is infinite"
    for solver in (s, *s.solvers) if vp else ():
        if solver.steps > vp.timesteps:
            yield f"sample.steps = {solver.steps} must not exceed objective.timesteps = {vp.timesteps}"
        if vp.zero_terminal_snr and (solver.spacing in ("leading", "karras") or solver.sampler == "heun"):
            needed = "sample.spacing trailing or linspace, which visit the last timestep, and no sample.sampler heun"
            yield f"objective.zero_terminal_snr needs {needed}"


def in_data(p: Section) -> Iterator[str]:
    """Conflicts with the data set."""
    entry, vae, n, classes = p.data.entry, p.model.vae, p.evaluate.samples, len(p.data.entry.classes)
    factor = pretrained.FACTORS.get(vae, 1)  # that of a folder's is read when it is opened
    if entry.attributes and p.data.caption and "{gender}" not in p.data.caption:
        rule = "null, for captions that are built from attributes, or hold {gender}"
        yield f"data.caption must be {rule} for data.name = {p.data.name}"
    if not entry.attributes:
        yield from p.data.misfits(p.text.tokens)
    if vae and (p.data.range != (-1, 1) or entry.channels != 3 or p.data.resolution % factor):
        needed = f"colour images with data.range [-1, 1] and a data.resolution that {factor} divides"
        yield f"model.vae = {vae} takes {needed}, not {list(p.data.range)} and {p.data.resolution}"
    side = p.data.resolution // factor, "points of a latent" if vae else "pixels"
    others = {f"evaluate.networks: {network.name}": network.model for network in p.evaluate.networks}
    for place, model in ({"model": p.model} | others).items():
        if isinstance(model, Patched):
            yield from (misfit.replace("model.", f"{place}.", 1) for misfit in model.misfits(*side))
    if p.train.file_rows and entry.window:
        yield f"train.file_rows sorts images that are in memory, and {p.data.name} is streamed"
    if (vae or entry.attributes or entry.captioned) and any(m.combine == "classifier" for m in p.sample.methods):
        yield "sample.methods: classifier reads the one class of an image in its pixels: not with model.vae or faces"
    if not entry.attributes and (n % classes or n < 3 * classes):
        yield f"evaluate.samples = {n} must be a multiple of {classes}, the number of classes, and at least {3 * classes}"


def in_pretrained(p: Section) -> Iterator[str]:
    """Conflicts among what is taken from elsewhere: the parts of a pipeline were trained together."""
    named = {"text.encoder": p.text.encoder, "model.vae": p.model.vae, "model.init": p.model.init}
    init = p.model.init
    if init and not (pretrained.is_pipeline(init) or re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+(@[0-9a-f]{8})?", init)):
        yield f"model.init = {shown(init)}: it is {pretrained.SD}, the folder of a pipeline, or a training, EXPERIMENT/PROFILE"
    whole = [name for name in named.values() if name and pretrained.is_pipeline(name)]
    if whole and len({*named.values()}) > 1:
        given = ", ".join(f"{key} = {shown(name)}" for key, name in named.items())
        yield f"{given}: all three name one pipeline, since its parts were trained together"
    if init == pretrained.SD and p.model.kind == "unet":
        halvings = len(p.model.channels) - 1
        step = pretrained.FACTORS[init] * 2**halvings
        if p.data.resolution % step:
            yield f"data.resolution = {p.data.resolution} must be a multiple of {step}: {init} halves its latents {halvings} times"
    if "init" in p.sample.all_weights and not init:
        yield "sample.weights = init are those of model.init, which is null"

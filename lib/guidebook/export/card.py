"""The card of an exported model: what it is, from what it learnt, how good it is and what it is not for.

Every number comes from `params.yml`, `provenance.json`, a set of samples or a metric record; what has none is not said.
"""

import json
import statistics

import yaml

from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.grammar import bits
from guidebook.config.datasets import CATALOG
from guidebook.config.errors import plain
from guidebook.config.params import Params
from guidebook.config.paths import ROOT
from guidebook.config.pretrained import EMBEDDED
from guidebook.report.tables import with_interval
from guidebook.runs.run import Run
from guidebook.runtime.rng import seed_of
from guidebook.sampling.spec import Draw

SHOWN = 4  # images that the card's code draws
SCHEDULERS = {
    "ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp-2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler", "heun": "HeunDiscreteScheduler",
}  # fmt: skip


def card(run: Run) -> str:
    """A model card in Markdown, with the front matter that the Hugging Face hub reads. The same run, the same card."""
    sections = {
        f"guidebook {plain(run.name)}": _what(run),
        "What it learnt from": _data(run),
        "How to load it": _use(run),
        "What it is not for": _not_for(run.params),
        "What training cost": _cost(run),
        "Measured": _measured(run),
        "Made with": _made(run),
    }
    marks = ["#"] + ["##"] * (len(sections) - 1)
    told = [f"{mark} {head}\n\n{body}\n" for mark, (head, body) in zip(marks, sections.items(), strict=True) if body]
    return "\n".join([_front(run.params), *told])


def _front(params: Params) -> str:
    """YAML between two rules."""
    cited = ROOT / "CITATION.cff"
    license = yaml.safe_load(cited.read_text()).get("license") if cited.exists() else None
    entry = CATALOG[params.data.name]
    facts = {
        **({"license": str(license).lower()} if license else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusion", "classifier-free-guidance", "guidebook"],
        **({"datasets": [entry.hub]} if entry.hub else {}),
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _what(run: Run) -> str:
    p, s = run.params, run.params.sample
    where = f"the latents of the autoencoder `{p.model.vae}`" if p.model.vae else "pixels"
    c, side = CATALOG[p.data.name].channels, p.data.resolution
    averaged = (
        f"averaged with decay {s.weights.removeprefix('ema-')}" if s.weights != "raw" else "as training left them"
    )
    lines = [
        f"A text-to-image diffusion model of a study of guidance. It draws {'colour' if c == 3 else 'grey'} images of "
        f"{side}×{side} pixels from captions, by diffusion in {where}.",
        f"Its weights are {averaged} (`{s.weights}`). The study samples it by "
        f"{', '.join(Draw.of(p, 1.0, 1).walk())}; the scheduler in this folder is set to that.",
    ]
    if standing := _stand_ins(p):
        lines += [f"**It holds stand-ins in the place of what a published model has:** {standing}."]
    return "\n\n".join(lines)


def _stand_ins(params: Params) -> str:
    entry = CATALOG[params.data.name]
    told = [
        None if entry.hub else f"stand-in data (`{params.data.name}`)",
        "a stand-in text encoder, a small text transformer with fixed random weights, which tells captions apart and "
        "knows nothing of what words mean"
        if params.text.encoder == EMBEDDED
        else None,
        "a stand-in autoencoder, small and trained on this data" if params.model.vae == EMBEDDED else None,
    ]
    return "; ".join(t for t in told if t)


def _data(run: Run) -> str:
    facts, d = run.provenance(), run.params.data
    known = facts.get("data", {})
    lines = [
        _text(facts.get("data_note") or CATALOG[d.name].note),
        f"source: {_text(known['source'])}; fingerprint `{_text(known['fingerprint'])}`" if known else None,
        f"images of {d.resolution}×{d.resolution} pixels" + (", mirrored by chance" if d.flips else ""),
        f"the first {d.limit:,} images of each split alone" if d.limit else None,
        f"images that could not be read: {len(known['skipped']):,}" if known.get("skipped") else None,
        f"captions: `{_text(d.caption)}`" if d.caption else "captions: sentences built by rule from attributes",
        f"text encoder: `{run.params.text.encoder}`, captions padded or cut to {run.params.text.tokens} tokens",
    ]
    return _listed(lines)


def _use(run: Run) -> str:
    """Code that draws some of the study's own images, and what it does not say by itself."""
    p, s, latent = run.params, run.params.sample, bool(run.params.model.vae)
    above = sorted(w for w in s.guidance if w > 1)
    w = statistics.median_high(above) if above else 1.0
    captions, own = _captions(run)
    name, home = ("DiffusionPipeline", "diffusers") if latent else ("PixelPipeline", "guidebook.export.pixel_pipeline")
    made, told = SCHEDULERS[s.sampler], [f"num_inference_steps={s.steps}", f"guidance_scale={w:g}"]
    told += [f"eta={s.eta:g}"] if s.eta else []
    classes, load = [name], [f'pipe = {name}.from_pretrained(".")  # this folder']
    if latent and s.spacing == "leading":
        classes.append(made)
        load.append(
            f'pipe.scheduler = {made}.from_pretrained(".", subfolder="scheduler")  # the stock pipeline shifts it'
        )
    code = [
        "import torch",
        f"from {home} import {', '.join(sorted(classes))}",
        "",
        *load,
        "prompts = [",
        *(f"    {caption!r}," for caption in captions),
        "]",
        f"seeds = {[seed_of((s.seed << 32) + i, 'image') for i in range(len(captions))]}",
        "generators = [torch.Generator().manual_seed(seed) for seed in seeds]",
        f"images = pipe(prompts, {', '.join(told)}, generator=generators).images",
    ]
    same = "the same but for rounding, as the study drew in bf16" if p.train.precision == "bf16" else "the same"
    notes = [
        f"Captions and seeds are those of the study's first {len(captions)} images at w = {w:g}: the images are {same}."
        if own
        else None,
        f'Image i of the study has the seed `guidebook.runtime.rng.seed_of(({s.seed} << 32) + i, "image")`.',
        "`guidance_scale` is w: 1 or less is off here, and the study's w = 0 is an empty prompt."
        if latent
        else "`guidance_scale` is w: 1 is off and 0 is unconditional.",
    ]
    return "\n".join(["```python", *code, "```", "", _listed(notes)])


def _captions(run: Run) -> tuple[list[str], bool]:
    """What the study's first images were asked to show, and whether that is known: of faces, from a set of samples."""
    p, entry = run.params, CATALOG[run.params.data.name]
    if not entry.attributes:
        return [caption_of(p, i % len(entry.classes), i) for i in range(SHOWN)], True
    for file in sorted(run.path.glob("samples/w[0-9]*/set.json")):  # what `draw` names by its guidance scale
        facts = json.loads(file.read_text())
        if facts["draw"].get("prompt") is None and facts["draw"]["seed"] == p.sample.seed:
            return [caption_of(p, label, i) for i, label in enumerate(facts["labels"][:SHOWN])], True
    example = bits(["Young", "Smiling", "Brown_Hair"])
    return [caption_of(p, example, i) for i in range(SHOWN)], False


def _not_for(params: Params) -> str:
    entry = CATALOG[params.data.name]
    lines = [
        "For anything but the study of guidance. It has no safety checker.",
        f"For pictures of anything but what `{params.data.name}` shows.",
        None if entry.hub else "For conclusions about the real data that its stand-in data takes the place of.",
        "For words it does not know: the stand-in text encoder's tokenizer holds the words of the run's captions, and "
        "any other word raises an exception."
        if params.text.encoder == EMBEDDED
        else None,
        "For judging, recognising or imitating people: what its captions say of a face is how a picture was labelled, "
        "not what is true of a person."
        if entry.attributes
        else None,
    ]
    return _listed(lines)


def _cost(run: Run) -> str:
    facts, t = run.provenance(), run.params.train
    seen, seconds, stretches = (facts.get(k) for k in ("images_seen", "train_seconds", "stretches"))
    if not seen:
        return ""
    return _listed(
        [
            f"{seen:,} images seen" + (f" in {facts['updates']:,} updates" if "updates" in facts else ""),
            f"batches of {t.batch:,} images, in {t.precision}",
            f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds",
            *(f"{name}: {_text(facts[name])}" for name in ("device", "processes") if name in facts),
            f"in {len(stretches)} stretches" if stretches and len(stretches) > 1 else None,
            "what the stand-in autoencoder cost is not in this" if run.params.model.vae == EMBEDDED else None,
        ]
    )


def _measured(run: Run) -> str:
    """Every metric record, a row each, with its interval, how that was found, and all that says how it was computed."""
    records = run.metrics()
    if not records:
        return ""
    rows = []
    for r in records:
        w = "" if r.get("guidance") is None else f"{r['guidance']:g}"
        drawn = [f"{k} {r[k]}" for k in ("set", "attribute") if r.get(k)]
        if r.get("draw"):
            draw = Draw.model_validate(r["draw"])
            drawn += [*draw.words(), draw.weights]
        cells = (
            r["metric"],
            with_interval(r),
            r.get("interval"),
            f"{r['n']:,}",
            w,
            "; ".join(drawn),
            r["extractor"],
            r["reference"],
        )
        rows.append(["" if c is None else _text(c) for c in cells])
    heads = ["metric", "value [low, high]", "interval", "n", "w", "of", "extractor", "reference"]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _made(run: Run) -> str:
    facts = run.provenance()
    commit = facts.get("commit")
    lines = [
        f"guidebook commit `{_text(commit)}`{' with changes' if facts.get('dirty') else ''}" if commit else None,
        *(f"{_text(name)} {_text(version)}" for name, version in facts.get("versions", {}).items()),
        f"parameters: `{run.params.experiment}/{run.params.profile}`, training key `{run.params.training_key}`",
    ]
    return _listed(lines)


def _listed(lines: list[str | None]) -> str:
    return "\n".join(f"- {line}" for line in lines if line)


def _text(said) -> str:
    """Words from a run folder, on one line, that end no cell and open no tag."""
    return plain(said).replace("<", "&lt;").replace("|", "\\|").replace("`", "'")

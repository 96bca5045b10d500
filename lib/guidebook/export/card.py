"""The card of an exported model: its data, its quality, its limits, and code that loads it.

Every number comes from `params.yml`, `provenance.json`, a set of samples or a metric record; what has none is left out.
"""

import statistics
from pathlib import Path
from typing import Any

import yaml

from guidebook.conditioning.captions import caption_of, words
from guidebook.conditioning.grammar import bits
from guidebook.config.errors import plain
from guidebook.config.paths import ROOT
from guidebook.config.pretrained import CHANNELS, EMBEDDED, PRETRAINED, is_pipeline
from guidebook.report.tables import MEASURED, measured, table
from guidebook.runs.run import Run
from guidebook.runtime.seeds import seed_of
from guidebook.sampling.sets import stored
from guidebook.sampling.spec import Draw

SHOWN = 4  # images that the card's code draws
SCHEDULERS = {
    "ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp-2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler", "heun": "HeunDiscreteScheduler",
}  # fmt: skip


def card(run: Run) -> str:
    """A model card in Markdown with the front matter of the Hugging Face hub: `card.md` filled. The same run, the same card."""
    from huggingface_hub import ModelCard, ModelCardData

    p, entry, rows = run.params, run.params.data.entry, measured(run.metrics())
    stand_ins = {
        f"stand-in data (`{p.data.name}`)": not entry.stand_in,
        "a stand-in text encoder, a small text transformer with fixed random weights, which tells captions apart and knows nothing of "
        "what words mean": p.text.encoder == EMBEDDED,
        "a stand-in autoencoder, small and trained on this data": p.model.vae in CHANNELS,
    }
    cited = ROOT / "CITATION.cff"
    license = yaml.safe_load(cited.read_text()).get("license") if cited.exists() else None
    known = ModelCardData(
        license=str(license).lower()
        if license and not is_pipeline(p.model.init)
        else None,  # else that of the first weights
        base_model=p.model.init if p.model.init in PRETRAINED else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusion", "classifier-free-guidance", "guidebook"],
        datasets=[entry.hub] if entry.hub else None,
    )
    facts = run.provenance()
    made = ModelCard.from_template(
        known, template_path=Path(__file__).with_name("card.md"), name=plain(run.name), d=p.data, s=p.sample,
        text=_safe(p.text.model_dump()), init=_safe(p.model.init), of_others=is_pipeline(p.model.init), entry=entry,
        note=_safe(entry.note), side=p.data.resolution, vae=_safe(p.model.vae), stand_in_vaes=CHANNELS, caption=_safe(p.data.caption),
        batch=p.train.batch, precision=p.train.precision, experiment=f"{p.experiment}/{p.profile}", key=p.training_key,
        facts=_safe(facts), decay=facts.get("last_decay", {}).get(p.sample.weights) if p.train.ema_warmup else None,
        stand_ins=[what for what, there in stand_ins.items() if there], count=SHOWN,
        measured=table(MEASURED, rows).text.replace("</tr>", "</tr>\n") if rows else "", seed_of=f"{seed_of.__module__}.seed_of",
        walk=", ".join(Draw.of(p, 1.0, 1).walk()), words=", ".join(words(p)), **_use(run),
    )  # fmt: skip
    return str(made)


def _use(run: Run) -> dict[str, Any]:
    """The solver and scale by which the card's code draws the study's own images, and how near to them it comes."""
    p, s, latent = run.params, run.params.sample, bool(run.params.model.vae)
    captions, own = _captions(run)
    same = "the same but for rounding, as the study drew in bf16" if p.train.precision == "bf16" else "the same"
    if latent and s.misses_noise_level(getattr(p.objective, "timesteps", s.steps)):
        same = "near them, as diffusers' DDIM steps to another noise level where the timesteps are not evenly spaced"
    return {
        "scheduler": SCHEDULERS[s.sampler] if latent and s.starts_late else None, "captions": captions,
        "seeds": [seed_of((s.seed << 32) + i, "image") for i in range(len(captions))], "same": same if own else None,
        "w": f"{statistics.median_high([w for w in s.guidance if w > 1] or [1.0]):g}",
    }  # fmt: skip


def _captions(run: Run) -> tuple[list[str], bool]:
    """Captions of the study's first images, and whether they are known: of faces, from a set of samples."""
    p, entry = run.params, run.params.data.entry
    if not entry.attributes:
        return [caption_of(p, i % len(entry.classes), i) for i in range(SHOWN)], True
    for file in sorted(run.path.glob("samples/w[0-9]*/set.json")):  # named by `draw` for its guidance scale
        facts = stored(file.parent).facts
        if facts["draw"].get("prompt") is None and facts["draw"]["seed"] == p.sample.seed:
            return [caption_of(p, label, i) for i, label in enumerate(facts["labels"][:SHOWN])], True
    return [caption_of(p, bits(["Young", "Smiling", "Brown_Hair"]), i) for i in range(SHOWN)], False


def _safe(value: Any) -> Any:
    """Text from a run folder, on one line, that ends no code and opens no tag; also inside lists and dictionaries."""
    if isinstance(value, dict):
        return {_safe(k): _safe(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_safe(v) for v in value]
    return plain(value).replace("<", "&lt;").replace("`", "'") if isinstance(value, str) else value

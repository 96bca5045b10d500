"""The note at the top of an experiment's page."""

import html

from guidebook.config import params as P
from guidebook.config.errors import plain
from guidebook.config.paths import PARAMS
from guidebook.config.pretrained import EMBEDDED
from guidebook.runs.run import Run


def banner(run: Run) -> str:
    """In HTML: which run the page shows, on what data, with which stand-ins, and where it differs from its profile."""
    facts, p = run.provenance(), run.params
    lines = [
        f"This page shows {'the recorded run' if run.recorded else 'the run'} {run.name}",
        "{images_seen:,} images seen, {minutes:.0f} min of training on {device}".format(
            minutes=facts["train_seconds"] / 60, **facts
        )
        if facts.get("images_seen")
        else "",
        facts.get("data_note"),
        f"of each split this run knows the first {p.data.limit:,} at most" if p.data.limit else "",
        "captions go through a stand-in for CLIP: a small text transformer with fixed random weights"
        if p.text.encoder == EMBEDDED
        else f"captions go through {p.text.encoder}",
        "latents are those of a small autoencoder that was trained on the training images, a stand-in for Stable Diffusion's"
        if p.model.vae == EMBEDDED
        else f"latents are those of {p.model.vae}"
        if p.model.vae
        else "",
    ]
    text = [". ".join(html.escape(plain(line[0].upper() + line[1:])) for line in lines if line) + "."]
    published = PARAMS / p.experiment / f"{p.profile}.yml"
    if published.exists() and (changes := _changes(P.check(P.read(published), published.name), p)):
        changed = html.escape(plain("; ".join(changes)))
        text.append(f"<strong>It departs from {html.escape(p.profile)}.yml:</strong> {changed}.")
    return f'<div class="run-banner">{"<br>".join(text)}</div>'


def _changes(published: P.Params, params: P.Params) -> list[str]:
    """`train.lr is 0.1 instead of 0.2`, of each parameter that changes what is learnt or drawn."""
    found = P.differences(published, params)
    return [f"{key} {_changed(a, b)}" for key, a, b in found if key.removeprefix("train.") not in P.FREE]


def _changed(before, after) -> str:
    """The change of a parameter; of a list of settings, which are gone and which are new."""
    if not any(isinstance(value, list) and any(isinstance(x, dict) for x in value) for value in (before, after)):
        return f"is {_show(after)} instead of {_show(before)}"
    gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
    parts = [f"{word} {_show(items)}" for word, items in (("lacks", gone), ("adds", new)) if items]
    return " and ".join(parts) or "is in another order"


def _show(value) -> str:
    if isinstance(value, dict):
        return " ".join(v if isinstance(v, str) else f"{k} {v}" for k, v in value.items())
    return ", ".join(map(_show, value)) if isinstance(value, list) else str(value)

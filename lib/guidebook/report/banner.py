"""The note at the top of an experiment's page."""

import re
from collections.abc import Sequence

from guidebook.config.budget import published, rows, share
from guidebook.config.datasets import CATALOG, percent
from guidebook.config.params import departures
from guidebook.config.pretrained import CHANNELS, EMBEDDED
from guidebook.config.schema import Data
from guidebook.report.tables import escaped
from guidebook.runs.run import Run

ENCODER = "a stand-in for CLIP: a small text transformer with fixed random weights"
AUTOENCODER = "a small autoencoder that was trained on the training images, a stand-in for Stable Diffusion's"


def banner(run: Run, others: Sequence[Run] = ()) -> str:
    """In HTML: which run the page shows and which others of its name it does not, on what data, with which stand-ins, and where it differs from its profile."""
    facts, p = run.provenance(), run.params
    seen, minutes = facts.get("images_seen"), facts.get("train_seconds", 0) / 60
    encoder = ENCODER if p.text.encoder == EMBEDDED else p.text.encoder
    vae = AUTOENCODER if p.model.vae in CHANNELS else p.model.vae
    decay = facts.get("last_decay", {}).get(p.sample.weights)
    lines = [
        f"This page shows {'the recorded run' if run.recorded else 'the run'} {run.name}",
        p.profile == "best" and "its setting is this study's own, not the published one",
        seen
        and f"{seen:,} images seen, {f'{minutes:.0f} min' if minutes >= 1 else 'under a minute'} of training on {facts.get('device')}",
        decay and f"samples are of the averaged weights {p.sample.weights}, whose decay was {decay:.4g} in the end",
        facts.get("data_note"),
        facts.get("caveat"),  # what has changed since a record was made
        f"of each split this run knows the first {p.data.limit:,} at most"
        if p.data.limit
        and p.data.limit < p.data.entry.train
        and "of each split" not in (facts.get("data_note") or "")  # as older records have it
        else "",
        f"captions go through {encoder}",
        vae and f"latents are those of {vae}",
    ]
    text = [". ".join(escaped(line[0].upper() + line[1:]) for line in lines if line) + "."]
    if changes := _departs(run):
        text.append(f"<strong>It departs from {p.profile}.yml:</strong> {escaped(changes)}.")
    for other in others:
        how = _departs(other) or "keeps to its profile"
        text.append(f"Not shown is {escaped('the record' if other.recorded else other.path.name)}: {escaped(how)}.")
    return f'<div class="run-banner">{"<br>".join(text)}</div>'


def clipping(run: Run) -> str:
    """Sentence for captions that rank solvers or ways to guide: whether all clipped the image alike, by the note at the top of the page."""
    _, differs, how = (run.provenance().get("caveat") or "").partition("clipped the image alike: here ")
    return f"The image was not clipped alike: {how.partition(';')[0]}." if differs else "All clip the image alike."


def fraction(run: Run) -> str:
    """The basis of a run's verdicts in a few words; where one publication has the setting, in what the run falls short of it."""
    p, seen = run.params, run.provenance().get("images_seen")
    paper = published(p) or p
    mine, theirs = (x.model.model_dump(include={"kind", "channels", "hidden", "layers"}) for x in (p, paper))
    kinds = {paper.model.kind, *(network.model.kind for network in paper.evaluate.networks)}
    words = [
        *([] if paper is p else [f"{percent(share(p, seen), 1)} of the published training"]),
        f"{_part(p.data, paper.data)} at {p.data.resolution}×{p.data.resolution}",
        *([f"{'a smaller' if mine['kind'] in kinds else 'another'} network"] if mine != theirs else []),
        *(["stand-in text encoder"] if p.text.encoder == EMBEDDED else []),
        *(["stand-in autoencoder"] if p.model.vae in CHANNELS else []),
        f"n = {p.evaluate.samples:,}",
    ]
    return ", ".join(words)


def stands_in(basis: str) -> bool:
    """A check that what `fraction` says of a run, or a note with it, names data that come with the library or are another set than the published one."""
    found = re.search(r"(\S+)(?: \([^)]*\))?( for \S+)? at \d+×", basis)
    return found is not None and (found[2] is not None or (found[1] in CATALOG and CATALOG[found[1]].hub is None))


def _part(mine: Data, paper: Data) -> str:
    """A data set and how much of the published one it is."""
    if mine.name != paper.name:
        return f"{mine.name} for {paper.name}"
    classes, of = len(mine.entry.classes), len(paper.entry.classes)
    name = "images of one's own" if mine.contents else mine.name
    name = name if classes == of else f"{name} ({classes} of {of} classes)"
    return name if rows(mine) == rows(paper) else f"{percent(rows(mine), rows(paper))} of {name}"


def _departs(run: Run) -> str:
    """In which parameters a run departs from its profile, and how; empty where in none."""
    return "; ".join(f"{key} {_changed(a, b)}" for key, a, b in departures(run.params))


def _changed(before, after) -> str:
    """The change of a parameter; of a list of settings, which are gone and which are new."""
    if not any(isinstance(value, list) and any(isinstance(x, dict) for x in value) for value in (before, after)):
        return f"is {_show(after)} instead of {_show(before)}"
    gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
    parts = [f"{word} {_show(items)}" for word, items in (("lacks", gone), ("adds", new)) if items]
    return " and ".join(parts) or "is in another order"


def _show(value) -> str:
    if isinstance(value, dict):
        return " ".join(v if isinstance(v, str) else f"{k} {_show(v)}" for k, v in value.items() if v is not None)
    return ", ".join(map(_show, value)) if isinstance(value, list) else str(value)

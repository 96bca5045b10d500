"""Pretrained weights, in the hub's cache at pinned revisions, and their embedded stand-ins. Imports no torch."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from guidebook.config import hub

EMBEDDED = "embedded"  # the stand-in of each kind, which needs no download
log = logging.getLogger(__name__)


class PretrainedMissing(RuntimeError):
    """Weights that are neither in the cache nor given by the hub. One line: which, and what to do."""


class Pretrained(NamedTuple):
    kind: str
    key: str  # the parameter that names it
    revision: str
    files: tuple[str, ...]  # without which it cannot be loaded
    stand_in: str


CLIP, SD_VAE = "openai/clip-vit-base-patch32", "stabilityai/sd-vae-ft-mse"
PRETRAINED = {
    CLIP: Pretrained(
        "text encoder", "text.encoder", "c237dc49a33fc61debc9276459120b7eac67e7ef",  # this commit adds the safetensors
        ("config.json", "tokenizer.json", "model.safetensors"), "a small text transformer with random weights",
    ),
    SD_VAE: Pretrained(
        "autoencoder", "model.vae", "31f26fdeee1355a5c34592e401dd41e45d25a493",
        ("config.json", "diffusion_pytorch_model.safetensors"), "an autoencoder that is trained here",
    ),
}  # fmt: skip


def folder(name: str) -> Path | None:
    """The folder of a model in the hub's cache; None where one of its files is not there."""
    place = hub.cached(name, PRETRAINED[name].revision)
    return place if all((place / file).is_file() for file in PRETRAINED[name].files) else None


def located(name: str) -> Path:
    """The folder of a model in the hub's cache. Raises PretrainedMissing."""
    if not (place := folder(name)):
        kind = PRETRAINED[name].kind
        raise PretrainedMissing(f"{kind} {name} is not in the cache: `guidebook fetch EXPERIMENT` brings it")
    return place


def available(name: str) -> bool:
    """The presence of a model's weights on this machine."""
    return name == EMBEDDED or folder(name) is not None


def resolve(name: str) -> str:
    """The model, or `embedded` with a warning where its weights are not in the cache; in a job of SLURM raises PretrainedMissing."""
    if available(name):
        return name
    model = PRETRAINED[name]
    if "SLURM_JOB_ID" in os.environ:  # nobody would see the warning, and the run is another than the one submitted
        why = "is not in this node's cache: is HF_HOME the same here as where it was fetched?"
        raise PretrainedMissing(f"{model.kind} {name} {why} --set {model.key}={EMBEDDED} takes a stand-in")
    log.warning("the weights of %s are not in the cache: %s takes their place", name, model.stand_in)
    return EMBEDDED


def fetch(name: str) -> str:
    """The place of a model's weights, downloaded into the cache. Raises PretrainedMissing."""
    if name == EMBEDDED:
        return "needs no download"
    model = PRETRAINED[name]
    what = {"revision": model.revision, "allow_patterns": ["*.json", "*.txt", *model.files]}
    if why := hub.download(name, lambda: available(name), **what):
        cure = f"fetch it with internet and room on the disk, or set {model.key}={EMBEDDED}, a stand-in"
        raise PretrainedMissing(f"{model.kind} {name}: the hub did not give it ({why}); {cure}")
    return str(folder(name))

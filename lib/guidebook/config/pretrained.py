"""Pretrained weights, in the hub's cache at pinned revisions or in a folder, and their embedded stand-ins. Imports no torch."""

import functools
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

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
    stand_in: str | None  # None is no stand-in


CLIP, SD_VAE, SD = "openai/clip-vit-base-patch32", "stabilityai/sd-vae-ft-mse", "CompVis/stable-diffusion-v1-4"
FOLDER = r"(~?/|\.{1,2}/)[^\x00-\x1f\x7f]{1,4000}"  # of a pipeline that is not the hub's
# Files of a pipeline of Stable Diffusion's kind: U-Net, autoencoder, text encoder, tokenizer
PARTS = (
    "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json",
)  # fmt: skip
WORDS = ("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt")  # either way to keep them
CHANNELS = {EMBEDDED: 4, "embedded-8": 8, "embedded-16": 16}  # of the latents of stand-ins for an autoencoder
# Pixels that a point of an autoencoder's latents stands for, across and down
FACTORS = dict.fromkeys(CHANNELS, 2) | {SD_VAE: 8, SD: 8}
WIDTHS = {EMBEDDED: 512, CLIP: 512, SD: 768}  # numbers of a text encoder's token
PRETRAINED = {
    CLIP: Pretrained(
        "text encoder", "text.encoder", "c237dc49a33fc61debc9276459120b7eac67e7ef",  # this commit adds the safetensors
        ("config.json", "tokenizer.json", "model.safetensors"), "a small text transformer with random weights",
    ),
    SD_VAE: Pretrained(
        "autoencoder", "model.vae", "31f26fdeee1355a5c34592e401dd41e45d25a493",
        ("config.json", "diffusion_pytorch_model.safetensors"), "an autoencoder that is trained here",
    ),
    # The commit that adds the safetensors
    SD: Pretrained("pipeline", "model.init", "133a221b8aa7292a167afc5127cb63fb5005638b", PARTS, None),
}  # fmt: skip


def is_pipeline(name: Any) -> bool:
    """A check for the name of a whole pipeline: text encoder, autoencoder and network, which were trained together."""
    return isinstance(name, str) and (name == SD or bool(re.fullmatch(FOLDER, name)))


def folder(name: str) -> Path | None:
    """The folder of a model, a pipeline's or in the hub's cache; None where one of its files is not there."""
    return None if _missing(name) else _place(name)


def located(name: str, part: str = "") -> Path:
    """The folder of a model, or of a part of it where it is a pipeline. Raises PretrainedMissing."""
    place, missing = _place(name), _missing(name)
    if missing and name in PRETRAINED:
        model = PRETRAINED[name]
        what = f"{model.kind} {name} is not in the cache (revision {model.revision[:8]}, {missing[0]})"
        raise PretrainedMissing(f"{what}: `guidebook fetch EXPERIMENT` brings it")
    if missing:
        rule = "it is one that StableDiffusionPipeline.save_pretrained writes, of safetensors"
        raise PretrainedMissing(f"{name} is no folder of a pipeline: {missing[0]} is not there; {rule}")
    if name != unversioned(name) and version(place) != name[-8:]:
        raise PretrainedMissing(
            f"{name}: the folder holds other files now; put the first ones back, or delete the run's folder"
        )
    return place / part if is_pipeline(name) else place


def named(params: Any) -> list[str]:
    """Models that a run takes from elsewhere, each once: text encoder, autoencoder, pipeline."""
    init = params.model.init if is_pipeline(params.model.init) else None
    return [*dict.fromkeys(filter(None, (params.text.encoder, params.model.vae, init)))]


def wanted(name: str) -> str:
    """A model that is not here, in words, and its stand-in."""
    if name not in PRETRAINED:
        return f"pipeline {name}"
    model = PRETRAINED[name]
    return f"{model.kind} {name}" + (f" (or --set {model.key}={EMBEDDED}, a stand-in)" if model.stand_in else "")


def available(name: str) -> bool:
    """The presence of a model's weights on this machine."""
    return name in CHANNELS or folder(name) is not None


def unversioned(name: str | None) -> str | None:
    """A name without the version that was added where a run began."""
    return name and re.sub("@[0-9a-f]{8}$", "", name)


def content(name: str | None) -> str | None:
    """The content that a name stands for: of a folder with its version the version alone, wherever it lies."""
    return name[-9:] if is_pipeline(name) and unversioned(name) != name else name


def latent_shape(vae: str) -> tuple[int, int]:
    """Channels of an autoencoder's latents, and pixels that one of their points stands for, across and down."""
    if vae in FACTORS:
        return CHANNELS.get(vae, 4), FACTORS[vae]
    return _setting(vae, "vae", "latent_channels"), 2 ** (len(_setting(vae, "vae", "block_out_channels")) - 1)


def text_width(encoder: str) -> int:
    """Numbers in the embedding of a token."""
    return WIDTHS[encoder] if encoder in WIDTHS else _setting(encoder, "text_encoder", "hidden_size")


def _setting(pipeline: str, part: str, name: str) -> Any:
    """A value of the settings of a part. Raises PretrainedMissing."""
    file = located(pipeline, part) / "config.json"
    try:
        return json.loads(file.read_text())[name]
    except (OSError, ValueError, KeyError, TypeError):
        raise PretrainedMissing(f"{file} does not say {name}: it is no part of a pipeline") from None


def _place(name: str) -> Path:
    if name in PRETRAINED:
        return hub.cached(name, PRETRAINED[name].revision)
    return Path(unversioned(name)).expanduser()


def _missing(name: str) -> list[str]:
    files = PRETRAINED[name].files if name in PRETRAINED else PARTS
    missing = [file for file in files if not (_place(name) / file).is_file()]
    # Without its words a tokenizer loads all the same, and makes every caption the empty one
    if is_pipeline(name) and not any(all((_place(name) / file).is_file() for file in way) for way in WORDS):
        missing.append(WORDS[0][0])
    return missing


def resolve(name: str) -> str:
    """The model, a pipeline's folder with its version, or `embedded` with a warning where its weights are not in the cache.

    Raises PretrainedMissing for a pipeline that is not there, for which there is no stand-in, and in a job of SLURM for any model.
    """
    if is_pipeline(name):
        place = located(name).resolve()
        return name if name in PRETRAINED else f"{place}@{version(place)}"
    if available(name):
        return name
    model = PRETRAINED[name]
    if "SLURM_JOB_ID" in os.environ:  # nobody would see the warning, and the run is another than the one submitted
        why = "is not in this node's cache: is HF_HOME the same here as where it was fetched?"
        raise PretrainedMissing(f"{model.kind} {name} {why} --set {model.key}={EMBEDDED} takes a stand-in")
    log.warning("the weights of %s are not in the cache: %s takes their place", name, model.stand_in)
    return EMBEDDED


def version(place: Path) -> str:
    """8 hex digits of the settings, words and weights of the parts in a pipeline's folder."""
    parts = {Path(file).parts[0] for file in PARTS if "/" in file}
    every = (file for part in parts for file in (place / part).iterdir())
    files = sorted(file for file in every if file.suffix in (".json", ".txt", ".safetensors"))
    return _hashed(place, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=4)
def _hashed(place: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    known = hashlib.sha256()
    for file, _, _ in files:
        with file.open("rb") as content:
            known.update(str(file.relative_to(place)).encode() + hashlib.file_digest(content, "sha256").digest())
    return known.hexdigest()[:8]


def fetch(name: str) -> str:
    """The place of a model's weights, downloaded into the cache. Raises PretrainedMissing."""
    if name in CHANNELS:
        return "needs no download"
    if name not in PRETRAINED:
        return str(located(name))
    model = PRETRAINED[name]
    what = {"revision": model.revision, "allow_patterns": ["*.json", "*.txt", *model.files]}
    if why := hub.download(name, lambda: available(name), **what):
        cure = "fetch it with internet and room on the disk"
        cure += f", or set {model.key}={EMBEDDED}, a stand-in" if model.stand_in else ""
        raise PretrainedMissing(f"{model.kind} {name}: the hub did not give it ({why}); {cure}")
    return str(folder(name))

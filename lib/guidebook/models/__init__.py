"""Networks: the backbones that are trained, by kind, and the frozen autoencoders in whose latents they may work."""

import json
from pathlib import Path

import torch

from guidebook.conditioning.encoders import width
from guidebook.config.params import Params
from guidebook.models.backbone import Backbone
from guidebook.models.space import shape_of
from guidebook.models.unet import UNet
from guidebook.runtime.rng import seed_of

BACKBONES: dict[str, type[Backbone]] = {"unet": UNet}  # by model.kind


def build(params: Params) -> Backbone:
    """The backbone of a run, randomly initialised from `train.seed`; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(params.train.seed, "weights"))
        return BACKBONES[params.model.kind].of(params.model, shape_of(params), width(params.text))


def load(folder: Path) -> Backbone:
    """The backbone that `save_pretrained` wrote to a folder, in evaluation mode."""
    name = json.loads((folder / Backbone.config_name).read_text())["_class_name"]
    kinds = {kind.__name__: kind for kind in BACKBONES.values()}
    return kinds[name].from_pretrained(folder, use_safetensors=True).eval()

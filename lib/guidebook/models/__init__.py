"""Networks: the backbones that are trained, by kind, and the frozen autoencoders in whose latents they may work."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import width
from guidebook.config.params import Params, ParamsError, origin
from guidebook.config.pretrained import is_pipeline, located
from guidebook.models.space import shape_of
from guidebook.runs import manifest, run
from guidebook.runtime.seeds import seed_of

if TYPE_CHECKING:  # diffusers takes seconds to import, and a page that is redrawn needs none
    from guidebook.models.backbone import Backbone


IMAGES = 2  # of `inputs`: torch normalises no group of one value


@functools.cache
def backbones() -> "dict[str, type[Backbone]]":
    """The classes by `model.kind`. A new one is a file beside this one, a row here and a class in `config.networks`."""
    from guidebook.models.dit import DiT
    from guidebook.models.mmdit import MMDiT
    from guidebook.models.ssm import SSM
    from guidebook.models.unet import UNet

    return {"unet": UNet, "dit": DiT, "ssm": SSM, "mmdit": MMDiT}


def build(params: Params) -> "Backbone":
    """The backbone of a run, randomly initialised from `train.seed`; the global random state stays as it is."""
    kind, shape, tokens = backbones()[params.model.kind], shape_of(params), width(params.text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(params.train.seed, "weights"))
        return kind.of(params.model, shape, tokens)


def inputs(params: Params) -> dict[str, Any]:
    """Arguments of a backbone of a run, of the shapes that it is given in training: what counts its cost runs it with them."""
    d, pooled = width(params.text), params.model.pooled
    cond = Condition(torch.zeros(IMAGES, params.text.tokens, d), torch.zeros(IMAGES, d) if pooled else None)
    return {"x": torch.zeros(IMAGES, *shape_of(params)), "t": torch.zeros(IMAGES), "cond": cond}


def initial(params: Params) -> "Backbone":
    """The backbone that a training begins with: of random weights, or of those that `model.init` names, of a training those it samples with.

    Raises PretrainedMissing, Corrupt, and ParamsError where those are of another network than the params have.
    """
    network, init = build(params), params.model.init
    if not init:
        return network
    if is_pipeline(init):
        folder = located(init, "unet")
        _check_noise(params)
    else:
        before = origin(params)
        folder = run.folder(before) / "model" / before.sample.weights
        manifest.verify(folder, f"delete {folder.parent} and run again: it is trained on from its last checkpoint")
    known = json.loads((folder / "config.json").read_text())
    own = json.loads(json.dumps({k: v for k, v in network.config.items() if k[0] != "_" and k != "sample_size"}))
    if unlike := [(k, known[k], v) for k, v in own.items() if k in known and known[k] != v]:
        raise ParamsError(
            f"model.init = {init} is of another network: {unlike[0][0]} is {unlike[0][1]}, in model {unlike[0][2]}"
        )
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    network.load_state_dict(weights)
    return network


def _check_noise(params: Params) -> None:
    """Raises ParamsError where the objective is not the one that a pipeline's network was trained on."""
    known = json.loads((located(params.model.init, "scheduler") / "scheduler_config.json").read_text())
    o = params.objective.model_dump(mode="json")
    own = {"beta_schedule": "schedule", "num_train_timesteps": "timesteps", "prediction_type": "prediction"}
    found = [(name, known[name], o.get(mine)) for name, mine in own.items() if name in known]
    found += [
        (name, known.get(name), beta)
        for name, beta in zip(("beta_start", "beta_end"), o.get("betas") or (), strict=False)
    ]
    if unlike := [f"{name} is {there}, in objective {here}" for name, there, here in found if there != here]:
        raise ParamsError(f"model.init = {params.model.init} was trained on another objective: {unlike[0]}")


def load(folder: Path) -> "Backbone":
    """The backbone that `save_pretrained` wrote to a folder, in evaluation mode. Raises ValueError where it names no class of ours."""
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    classes = {found.__name__: found for found in backbones().values()}
    if name not in classes:
        raise ValueError(f"{folder / 'config.json'} names {name!r:.60}, none of the backbones {', '.join(classes)}")
    return classes[name].from_pretrained(folder, use_safetensors=True).eval()

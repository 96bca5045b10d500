"""Parameters with what depends on the machine that a run begins on."""

from guidebook.config import pretrained
from guidebook.config.params import Params, digest, origin


def resolved(params: Params) -> Params:
    """The parameters with what depends on this machine: the weights that are available, at their version, and the precision."""
    changes: dict[str, dict] = {"text": {"encoder": pretrained.resolve(params.text.encoder)}, "model": {}}
    if params.model.vae:
        changes["model"]["vae"] = pretrained.resolve(params.model.vae)
    if init := params.model.init:  # with what it holds now
        changes["model"]["init"] = pretrained.resolve(init) if pretrained.is_pipeline(init) else _trained(params)
    if params.train.precision == "auto":
        from guidebook.runtime.precision import native_bf16

        changes["train"] = {"precision": "bf16" if native_bf16() else "fp32"}
    return params.replace(**changes)


def _trained(params: Params) -> str:
    """The training that `model.init` names, with 8 hex digits of all that its weights depend on."""
    before = resolved(origin(params))
    return f"{before.experiment}/{before.profile}@{digest([before.training_key, before.sample.weights])}"

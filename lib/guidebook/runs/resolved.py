"""Parameters with what depends on the machine that a run begins on."""

from guidebook.config import pretrained
from guidebook.config.params import Params, pinned


def resolved(params: Params) -> Params:
    """The parameters with what depends on this machine: the weights that are available, at their version, and the precision."""
    changes: dict[str, dict] = {"text": {"encoder": pretrained.resolve(params.text.encoder)}, "model": {}}
    if params.model.vae:
        changes["model"]["vae"] = pretrained.resolve(params.model.vae)
    if pretrained.is_pipeline(params.model.init):
        changes["model"]["init"] = pretrained.resolve(params.model.init)
    if params.train.precision == "auto":
        from guidebook.runtime.precision import native_bf16

        changes["train"] = {"precision": "bf16" if native_bf16() else "fp32"}
    params = params.replace(**changes)
    return params.replace(model={"init": pinned(params)}) if params.model.init else params

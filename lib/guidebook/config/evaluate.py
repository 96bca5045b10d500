"""The section of a params file on what is measured, and of which networks. Nothing here imports torch."""

from typing import Annotated

from pydantic import Field, SerializeAsAny

from guidebook.config.networks import Model
from guidebook.config.schema import Word
from guidebook.config.section import Section


class Evaluate(Section):
    samples: Annotated[int, Field(ge=30, le=1_000_000)]  # per guidance scale
    trainings: Annotated[int, Field(ge=1, le=100)] = 1  # of each kind, for claims about it: seeds train.seed, + 1, …
    # Further networks that a notebook compares with `model`, by the names it has for them; all learn the latents of `model.vae`
    networks: dict[Word, SerializeAsAny[Model]] = Field(default_factory=dict)

    def conflicts(self):
        for name, model in self.networks.items():
            if model.vae or model.init:
                yield f"evaluate.networks.{name} takes model.vae of the run, and random weights: leave out vae and init"

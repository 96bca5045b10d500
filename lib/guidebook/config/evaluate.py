"""The section of a params file on what is measured, and of which networks. Nothing here imports torch."""

from typing import Annotated

from pydantic import Field, SerializeAsAny

from guidebook.config.errors import ParamsError
from guidebook.config.networks import Model
from guidebook.config.schema import Word
from guidebook.config.section import Section, Tuple


class Compared(Section):
    """A further network that a notebook compares with that of the run, whose latents it learns too."""

    name: Word  # that the notebook has for it
    model: SerializeAsAny[Model]

    def conflicts(self):
        if self.model.vae or self.model.init:
            yield f"{self.name} takes model.vae of the run, and random weights: leave out vae and init"


class Evaluate(Section):
    samples: Annotated[int, Field(ge=30, le=1_000_000)]  # per guidance scale
    trainings: Annotated[int, Field(ge=1, le=100)] = 1  # of each kind, for claims about it: seeds train.seed, + 1, …
    networks: Annotated[tuple[Compared, ...], Tuple(0)] = ()

    def conflicts(self):
        names = [network.name for network in self.networks]
        if len({*names}) < len(names):
            yield f"evaluate.networks = {names[:9]} must name each once"

    def network(self, name: str) -> Model:
        """The network of a name. Raises ParamsError where there is none."""
        of = {network.name: network.model for network in self.networks}
        if name not in of:
            raise ParamsError(
                f"evaluate.networks has no {name}, which is compared here; it has: {', '.join(of) or 'none'}"
            )
        return of[name]

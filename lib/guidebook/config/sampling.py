"""The section of a params file on sampling: guidance, solvers, seeds. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from guidebook.config.schema import Count, Weights, Word
from guidebook.config.section import Section, Tuple

Scale = Annotated[float, Field(ge=0, le=1000)]
Sigma = Annotated[float, Field(ge=0, le=1e4)]

# The names of the ways to guide, and the settings of each with their bounds; see diffusion/guidance.py. A setting is a field of Guiding.
SETTINGS = {
    "linear": {}, "rescaled": {"phi": (0, 1)}, "cfg-plus-plus": {},
    "projected": {"eta": (0, 1), "norm": (1e-6, 1e6), "momentum": (-0.99, 0.99)}, "classifier": {},
}  # fmt: skip


class Guide(Section):
    """The worse network of autoguidance: an earlier one of this run, or a variant's that trained for a share of the epochs."""

    run: Word | None = None  # name of the variant; None is this run
    share: Annotated[float, Field(gt=0, le=1)] | None = None  # of train.epochs
    weights: Weights | None = None  # None is those that are guided
    at: Count | None = None  # images seen; None is the end of the training

    def conflicts(self):
        if (self.run is None) != (self.share is None) or not (self.run or self.weights or self.at):
            yield "against: give run and share, or weights or at of this run, which make another network"


class Guiding(Section):
    """A way to guide without its scale."""

    combine: Literal[tuple(SETTINGS)] = "linear"
    between: Annotated[tuple[Sigma, Sigma], Tuple(2, 2)] | None = None  # noise levels σ; None is all of them
    against: Guide | None = None  # None is the same network without a condition
    phi: float | None = None
    eta: float | None = None
    norm: float | None = None
    momentum: float | None = None

    def settings(self) -> dict[str, float]:
        return {key: getattr(self, key) for key in SETTINGS[self.combine]}

    def conflicts(self):
        for key in dict.fromkeys(key for settings in SETTINGS.values() for key in settings):
            low, high = SETTINGS[self.combine].get(key, (None, None))
            value = getattr(self, key)
            if (value is None) != (low is None) or (value is not None and not low <= value <= high):
                rule = "is not taken" if low is None else f"must be from {low:g} to {high:g}"
                yield f"guidance: {self.combine}.{key} = {value} {rule}"
        if self.between and self.between[0] >= self.between[1]:
            yield f"guidance: between = {list(self.between)} must be [low, high] with low < high"
        if self.combine == "classifier" and self.against:
            yield "guidance: classifier takes no against: its gradient is added to the unconditional answer"


class Guidance(Guiding):
    """One way to guide at one scale."""

    w: Scale


class Method(Guiding):
    """A named way to guide, with the scales and the weights that it is tried with: all of one with all of the other."""

    name: Word
    w: Annotated[tuple[Scale, ...], Tuple(1)]
    weights: Annotated[tuple[Weights, ...], Tuple(0)] = ()  # none is the run's own

    def each(self) -> list[tuple[Guidance, Weights | None]]:
        """Every combination: guidance and weights, None for the run's own."""
        way = {key: getattr(self, key) for key in Guiding.model_fields}
        return [(Guidance(**way, w=w), weights) for weights in self.weights or (None,) for w in self.w]


class Solver(Section):
    """How the path from noise to image is solved."""

    sampler: Literal["ddpm", "ddim", "dpmpp-2m", "unipc", "heun"]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    eta: Annotated[float, Field(ge=0, le=1)]  # of ddim: 0 adds no noise on the way, 1 as much as ddpm
    spacing: Literal["leading", "linspace", "trailing", "karras"]  # of the timesteps that are visited
    v: Annotated[float, Field(ge=0, le=1)] = 0.0  # of ddpm: its variance from the lower bound, 0, to the upper, 1

    @property
    def starts_late(self) -> bool:
        """A check for schedules that leave out the noisiest timestep, for which diffusers' `steps_offset` is read, and would move the others."""
        return self.spacing == "leading"

    def misses_noise_level(self, timesteps: int) -> bool:
        """A check for unevenly spaced timesteps, where diffusers' DDIM steps to another noise level than the next one's."""
        uneven = self.spacing == "linspace" or (self.spacing == "trailing" and timesteps % self.steps > 0)
        return self.sampler == "ddim" and uneven

    def conflicts(self):
        if self.eta and self.sampler != "ddim":
            yield f"eta = {self.eta:g} is for sampler = ddim, not {self.sampler}"
        if self.v and self.sampler != "ddpm":
            yield f"v = {self.v:g} is for sampler = ddpm, not {self.sampler}"


class Sample(Solver):
    guidance: Annotated[tuple[Scale, ...], Tuple(1)]  # of plain classifier-free guidance
    methods: Annotated[tuple[Method, ...], Tuple(0)] = ()
    solvers: Annotated[tuple[Solver, ...], Tuple(0)] = ()  # others to compare with
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    batch: Count
    weights: Weights

    @property
    def solver(self) -> Solver:
        """The run's own, as one of those that are compared."""
        return Solver(**{key: getattr(self, key) for key in Solver.model_fields})

    @property
    def all_weights(self) -> list[Weights]:
        """The weights that images are drawn with, those of guides included."""
        of_methods = (w for m in self.methods for w in (*m.weights, m.against and m.against.weights))
        return [*dict.fromkeys(filter(None, (self.weights, *of_methods)))]

    def conflicts(self):
        yield from super().conflicts()
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            yield f"sample.methods = {names[:9]} must name every method once: put all its scales into one entry's w"

"""The specification of a set of samples: the digest of its JSON names the folder, and processes and records hold the JSON."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from guidebook.conditioning.captions import NULL
from guidebook.config.params import Params
from guidebook.config.sampling import Guidance, Guide, Solver
from guidebook.config.schema import Count, Section, Tuple, Weights
from guidebook.runs.run import Run


class Draw(Section):
    """All that a set of samples depends on besides the training."""

    kind: Literal["samples", "trajectory", "edits", "interpolation"] = "samples"
    n: Count  # images in the set
    guidance: Guidance
    prompt: str | None = None  # of all images; None gives each the caption of its label
    solver: Solver
    weights: Weights
    at: Count | None = None  # images seen: the network as it was then; None is the end of the training
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    columns: Count | None = None  # moments of a trajectory, images in a row of an interpolation
    edits: Annotated[tuple[str, ...], Tuple(0)] = ()  # attributes, each switched in an image of its own

    @classmethod
    def of(cls, params: Params, guidance: Guidance | float, n: int, **fields: Any) -> "Draw":
        """Samples of a run, as its params have them where a field is not given or None; a number is a scale of plain guidance."""
        s, way = params.sample, guidance if isinstance(guidance, Guidance) else Guidance(w=guidance)
        usual = {"weights": s.weights, "solver": s.solver, "seed": s.seed}
        return cls(n=n, guidance=way, **usual | {name: x for name, x in fields.items() if x is not None})

    @property
    def json(self) -> dict:
        """JSON values, without those that are as usual."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def name(self) -> str:
        """Words for the name of a folder."""
        g = self.guidance
        what = {None: f"w{g.w:g}", NULL: "null-caption"}.get(self.prompt, "prompt")
        marks = {g.combine: g.combine != "linear", "interval": g.between, "autoguidance": g.against}
        way = [mark for mark, shown in marks.items() if shown]
        return "-".join([what if self.kind == "samples" else self.kind, self.solver.sampler, *way])

    def words(self, seed: int | None = None) -> list[str]:
        """How the images were drawn, for a reader: the seed and the kind where they are not as usual."""
        other = {
            self.kind: self.kind != "samples",
            f"after {self.at or 0:,} images": self.at,
            f"prompt “{self.prompt}”": self.prompt is not None,
            f"seed {self.seed}": self.seed != seed,
        }
        return [*self.walk(), *(text for text, shown in other.items() if shown), *self.way()]

    @property
    def solver_name(self) -> str:
        """`ddim`, or `ddim, η = 1`, or `ddpm, v = 0.5`."""
        s = self.solver
        return s.sampler + (f", η = {s.eta:g}" if s.eta else f", v = {s.v:g}" if s.v else "")

    def walk(self) -> list[str]:
        """The solver, for a reader."""
        s = self.solver
        return [
            self.solver_name,
            f"{s.steps} step{'s' * (s.steps > 1)}",
            *[f"{s.spacing} spacing"] * (s.spacing != "leading"),
        ]

    def way(self) -> list[str]:
        """The guidance besides its scale, for a reader: nothing of plain one."""
        g = self.guidance
        settings = [f"{key} {value:g}" for key, value in g.settings().items()]
        levels = [f"{g.between[0]:g} < σ ≤ {g.between[1]:g}"] if g.between else []
        guide = [against(g.against)] if g.against else []
        return [*[g.combine] * (g.combine != "linear"), *settings, *levels, *guide]

    @model_validator(mode="after")
    def _possible(self):
        combine, s = self.guidance.combine, self.solver
        if combine == "cfg-plus-plus" and (s.sampler != "ddim" or s.eta):
            raise ValueError(f"cfg-plus-plus is for ddim with eta = 0, not {s.sampler} with eta = {s.eta:g}")
        if combine == "projected" and s.sampler == "heun":
            raise ValueError("projected guidance remembers the step before, and heun has two evaluations a step")
        if self.prompt is not None and self.kind not in ("samples", "trajectory"):
            raise ValueError(f"{self.kind} have captions of their own, not the prompt {self.prompt!r:.60}")
        if combine == "classifier" and (self.prompt is not None or self.kind != "samples"):
            raise ValueError(f"classifier guidance knows classes, not the prompt {self.prompt!r:.60} of {self.kind}")
        return self


def against(guide: Guide) -> str:
    """The guide of autoguidance, for a reader."""
    run = f"{guide.run}, {guide.share:g} of the training" if guide.run else None
    at = f"after {guide.at:,} images" if guide.at else None
    return "against " + ", ".join(filter(None, (run, guide.weights, at)))


def guide_run(run: Run, guide: Guide) -> Run:
    """The run whose network is the guide: a variant that trains for a share of the epochs, or the run itself."""
    if guide.run is None:
        return run
    epochs = guide.share * run.params.train.epochs
    return run.variant(guide.run, train={"epochs": epochs, "checkpoint_every": epochs})


def usual(run: Run, *metrics: str) -> list[dict]:
    """Records of these metrics of samples that are drawn as the run's params say, with plain guidance; in the order of its scale."""
    found = []
    for record in run.metrics():
        if record["metric"] in metrics and record["draw"]:
            with suppress(ValidationError):  # a draw that is none
                draw = Draw.model_validate(record["draw"])
                if draw == Draw.of(run.params, draw.guidance.w, draw.n):
                    found.append(record)
    return sorted(found, key=lambda record: record["guidance"])

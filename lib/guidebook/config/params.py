"""Parameters: YAML files of sections, checked before anything starts.

A params file is `params/<experiment>/<profile>.yml`, exactly what `papermill -f` takes. Nothing here imports torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from guidebook.config.datasets import CATALOG
from guidebook.config.errors import ParamsError, nearest, one_line, plain
from guidebook.config.paths import PARAMS
from guidebook.config.schema import VAES, WORD, Data, Diffusion, Evaluate, Model, Sample, Section, Text, Train, Word
from guidebook.config.yamlfile import read

# Parameters of a training that change how it is run and what is kept, not what is learnt.
FREE = ("micro_batch", "checkpoint_every", "keep_checkpoints", "processes", "tracker", "channels_last", "compile")
# Parameters that older runs did not have: where they are as they were before, a run keeps its key.
LATER = (("data", "phrasings"), ("model", "vae"))


class Params(Section):
    """One run's parameters. `experiment` and `profile` name it; the sections say what it does."""

    experiment: Word
    profile: Word
    data: Data
    text: Text
    model: Model
    objective: Diffusion
    train: Train
    sample: Sample
    evaluate: Evaluate

    @model_validator(mode="after")
    def _consistent(self):
        tracks = ["raw", *(f"ema-{d}" for d in self.train.ema)]
        guides = [method.against.weights for method in self.sample.methods if method.against and method.against.weights]
        for weights in (self.sample.weights, *guides):
            if weights in tracks:
                continue
            raise ValueError(
                f"sample.weights = {weights!r:.40} must be one of {tracks[:9]}, the weights that train.ema keeps"
            )
        for solver in (self.sample, *self.sample.solvers):
            if solver.steps > self.objective.timesteps:
                most = self.objective.timesteps
                raise ValueError(f"sample.steps = {solver.steps} must not exceed objective.timesteps = {most}")
            if self.objective.zero_terminal_snr and (
                solver.spacing in ("leading", "karras") or solver.sampler == "heun"
            ):
                raise ValueError(
                    "objective.zero_terminal_snr needs sample.spacing trailing or linspace, which visit the last timestep, "
                    "and a sample.sampler other than heun, for which its noise is infinite"
                )
        if len(set(self.sample.guidance)) < len(self.sample.guidance):
            raise ValueError(f"sample.guidance = {list(self.sample.guidance)[:9]} must name every scale once")
        entry = CATALOG[self.data.name]
        if entry.attributes != (self.data.caption is None) or (self.data.phrasings and not entry.attributes):
            raise ValueError(
                "data.caption = null and data.phrasings are for faces, whose captions are built from attributes; "
                f"data.name = {self.data.name} {'is such a set' if entry.attributes else 'has classes and needs a caption'}"
            )
        if self.model.vae:
            factor, pixels = VAES[self.model.vae][1], self.data.resolution
            if self.data.range != (-1, 1) or entry.channels != 3 or pixels % factor:
                raise ValueError(
                    f"model.vae = {self.model.vae} takes colour images with data.range [-1, 1] and a data.resolution that {factor} "
                    f"divides, not {list(self.data.range)} and {pixels}"
                )
            if entry.window:
                raise ValueError(f"model.vae needs images that are there as a whole, and {self.data.name} is streamed")
        if (self.model.vae or entry.attributes) and any(m.combine == "classifier" for m in self.sample.methods):
            raise ValueError(
                "sample.methods: classifier reads the one class of an image in its pixels: not with model.vae or faces"
            )
        n, classes = self.evaluate.samples, len(entry.classes)
        if not entry.attributes and (n % classes or n < 3 * classes):
            raise ValueError(
                f"evaluate.samples = {n} must be a multiple of {classes}, so that every class has as many, and at least {3 * classes}"
            )
        return self

    @property
    def training_key(self) -> str:
        """8 hex digits of everything the trained weights depend on."""
        parts = self.model_dump(mode="json", include={"data", "text", "model", "objective", "train"})
        for free in FREE:
            del parts["train"][free]
        for section, later in LATER:
            if parts[section][later] is None:
                del parts[section][later]
        return digest(parts)

    def replace(self, **sections: Any) -> "Params":
        """A copy with some values changed: `replace(train={"lr": 1e-4})`."""
        raw = self.model_dump(mode="json")
        for name, values in sections.items():
            raw[name] = {**raw.get(name, {}), **values} if isinstance(values, Mapping) else values
        return check(raw, "replace")

    def yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def digest(value: Any) -> str:
    """8 hex digits of a JSON value; equal values, equal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def load(experiment: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Params:
    """`params/<experiment>/<profile>.yml` with `{"train.lr": 1e-4}`-like overrides. Raises ParamsError."""
    for word, folder, kind in ((experiment, PARAMS, "experiment"), (profile, PARAMS / experiment, "profile")):
        names = sorted(p.stem for p in folder.glob("*" if folder != PARAMS else "*/")) if folder.is_dir() else []
        if word not in names:
            raise ParamsError(f"{kind} {word[:60]!r} is not known{nearest(word, names)}; there are: {', '.join(names)}")
    path = PARAMS / experiment / f"{profile}.yml"
    raw = read(path)
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        target = raw.setdefault(section, {}) if name and section in _sections() else None
        if not isinstance(target, dict):
            near = "" if section in _sections() else nearest(section, _sections())
            sections = ", ".join(_sections())
            raise ParamsError(f"--set {key[:60]!r}: write section.key=value{near}; sections: {sections}")
        target[name] = value
    params = check(raw, f"{path.name} with {', '.join(overrides)[:60]}" if overrides else path.name)
    if (params.experiment, params.profile) != (experiment, profile):
        raise ParamsError(
            f"{path.name} calls itself {params.experiment}/{params.profile}; expected {experiment}/{profile}"
        )
    return params


def check(raw: Mapping[str, Any], where: str, model: type[Section] = Params) -> Any:
    """Params (or another model) from a mapping. Raises ParamsError, one line."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ParamsError(one_line(error, where, model)) from None


def from_notebook(namespace: dict[str, Any]) -> Params:
    """Params from the variables a notebook has when its `parameters` cell (and what papermill injected) has run.

    Every variable counts, so a misspelt section is refused rather than ignored. The names are kept for when the cell is
    run again, among variables that came later.
    """
    jupyter, skip = {"In", "Out", "get_ipython", "exit", "quit", "open"}, (ModuleType, FunctionType, type)
    if "_parameters" not in namespace:
        named = (n for n in namespace if not n.startswith("_") and n not in jupyter)
        namespace["_parameters"] = [n for n in named if not isinstance(namespace[n], skip)]
    return check({n: namespace[n] for n in namespace["_parameters"]}, "notebook")


def check_word(word: str, what: str) -> None:
    """Raises ParamsError where a name is none that a folder may have."""
    if not re.fullmatch(WORD.strip("^$"), word):
        raise ParamsError(f"{what} {plain(word)[:60]!r}: allowed are up to 40 of a-z, 0-9 and -, the first no -")


def differences(a: Params, b: Params) -> list[tuple[str, Any, Any]]:
    """`(key, value in a, value in b)` for every parameter in which the two differ."""
    left, right = (p.model_dump(mode="json") for p in (a, b))
    pairs = [(f"{s}.{k}", left[s][k], right[s][k]) for s in _sections() for k in left[s]]
    return [(key, x, y) for key, x, y in pairs if x != y]


def _sections() -> list[str]:
    return [
        n
        for n, f in Params.model_fields.items()
        if isinstance(f.annotation, type) and issubclass(f.annotation, Section)
    ]

"""Parameters of a run: YAML files of sections, checked before anything starts.

A profile is `params/<experiment>/<profile>.yml`, exactly what `papermill -f` takes. It may say `extends: PROFILE` (or
`EXPERIMENT/PROFILE`) and then holds what differs from that one. Nothing here imports torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import yaml
from pydantic import SerializeAsAny, ValidationError

from guidebook.config import conflicts
from guidebook.config.errors import ParamsError, nearest, one_line, plain, shown
from guidebook.config.evaluate import Evaluate
from guidebook.config.networks import Model
from guidebook.config.paths import PARAMS
from guidebook.config.pretrained import content, is_pipeline, unversioned
from guidebook.config.sampling import Sample
from guidebook.config.schema import WORD, Data, Objective, Section, Text, Train, Word
from guidebook.config.yamlfile import read

# Parameters of a training that change how it is run and what is kept, not what is learnt.
FREE = ("micro_batch", "checkpoint_every", "keep_checkpoints", "snapshots", "processes", "tracker",
        "channels_last", "compile", "gradient_checkpointing")  # fmt: skip
# Parameters that came after runs were recorded: at these values they are not in the key, so that those runs keep theirs.
LATER = dict.fromkeys(("train.file_rows", "data.subset", "data.path", "data.contents", "model.init")) | {
    "objective.times": "logit-normal", "objective.shift": 1.0,
    "model.modulation": "shift", "model.cross_attention": "inner",
}  # fmt: skip


class Params(Section):
    """One run's parameters. `experiment` and `profile` name it."""

    experiment: Word
    profile: Word
    data: Data
    text: Text
    model: SerializeAsAny[Model]
    objective: SerializeAsAny[Objective]
    train: Train
    sample: Sample
    evaluate: Evaluate

    def conflicts(self):
        yield from conflicts.in_sampling(self)
        yield from conflicts.in_data(self)
        yield from conflicts.in_pretrained(self)

    @property
    def training_key(self) -> str:
        """8 hex digits of everything the trained weights depend on."""
        parts = self.model_dump(mode="json", include={"data", "text", "model", "objective", "train"})
        for free in FREE:
            del parts["train"][free]
        for section, name in (("text", "encoder"), ("model", "vae"), ("model", "init")):  # what lies there decides
            parts[section][name] = content(parts[section].get(name))
        for key, usual in LATER.items():
            section, name = key.split(".")
            if parts[section].get(name) == usual or key == "data.path":  # what lies there decides, wherever it lies
                parts[section].pop(name, None)
        return digest(parts)

    def replace(self, **sections: Any) -> "Params":
        """A copy with some values changed: `replace(train={"lr": 1e-4})`."""
        return check(merged(self.model_dump(mode="json"), sections), "replace")

    def network(self, name: str) -> dict[str, Any]:
        """One of `evaluate.networks` as a section `model`, in the space of the run. Raises ParamsError where there is none."""
        return self.evaluate.network(name).model_dump(mode="json") | {"vae": self.model.vae}

    def yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


SECTIONS = tuple(n for n, f in Params.model_fields.items() if issubclass(f.annotation, Section))


def digest(value: Any) -> str:
    """8 hex digits of a JSON value; equal values, equal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the changes, within a section key by key; a section that becomes another kind is replaced."""
    both = dict(base)
    for name, new in changes.items():
        old = base.get(name)
        alike = isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("kind") in (None, old.get("kind"))
        both[name] = {**old, **new} if alike else new
    return both


def check(raw: Mapping[str, Any], where: str, model: type[Section] = Params) -> Any:
    """Params, or another section, from a mapping. Raises ParamsError, one line."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ParamsError(one_line(error, where)) from None


def load(experiment: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Params:
    """A profile of an experiment, with `{"train.lr": 1e-4}`-like overrides. Raises ParamsError."""
    params = _changed(_profile(experiment, profile), f"{profile}.yml", overrides)
    if (own := f"{params.experiment}/{params.profile}") != f"{experiment}/{profile}":
        raise ParamsError(f"{profile}.yml calls itself {own}; expected {experiment}/{profile}")
    return params


def load_file(path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """A params file that may lie anywhere. Raises ParamsError."""
    return _changed(_extended(read(path), path.name), path.name, overrides)


def origin(params: Params) -> Params:
    """The params of the training whose weights a training begins with, with its encoders and precision; its own where there is none.

    Raises ParamsError, also where they have changed since `model.init` was `pinned`.
    """
    if not (init := params.model.init) or is_pipeline(init):
        return params
    alike = {"text.encoder": params.text.encoder, "model.vae": params.model.vae}
    alike |= {f"train.{name}": getattr(params.train, name) for name in ("precision", "processes")}
    name, _, version = init.partition("@")
    before = load(*name.split("/"), alike)
    if before.model.init or before.objective != params.objective:
        raise ParamsError(f"model.init = {init}: it begins with weights of its own, or has another objective")
    if version not in ("", _version(before)):
        raise ParamsError(f"model.init = {init}: what it is made of has changed since, it is {_version(before)} now")
    return before


def pinned(params: Params) -> str | None:
    """`model.init` with 8 hex digits of all that the weights of a training depend on. Raises ParamsError."""
    before = origin(params)
    return params.model.init if before is params else f"{before.experiment}/{before.profile}@{_version(before)}"


def _version(params: Params) -> str:
    return digest([params.training_key, params.sample.weights])


def named(word: str, profile: str) -> tuple[str, str]:
    """Experiment and profile of EXPERIMENT/PROFILE, or of EXPERIMENT with this profile."""
    experiment, slash, own = word.partition("/")
    return experiment, own if slash else profile


def having(profile: str) -> list[str]:
    """The experiments that have a profile. Raises ParamsError where none has it."""
    profiles = {name: _names(PARAMS / name) for name in _names(PARAMS)}
    if not (found := [name for name, own in profiles.items() if profile in own]):
        every = sorted(set().union(*profiles.values()))
        near = nearest(profile, every)
        raise ParamsError(f"no experiment has a profile {shown(profile)}{near}; there are: {', '.join(every)}")
    return found


def _changed(raw: Mapping[str, Any], where: str, overrides: Mapping[str, Any] | None) -> Params:
    """The params of a mapping with overrides. Raises ParamsError."""
    changes: dict[str, dict] = {}
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        if not name or section not in SECTIONS:
            like = [f"{s}.{key}" for s in SECTIONS if key in Params.model_fields[s].annotation.parameters()]
            near = f" (as {' or '.join(like)})" if like else "" if section in SECTIONS else nearest(section, SECTIONS)
            raise ParamsError(f"--set {key[:60]!r}: write section.key=value{near}; sections: {', '.join(SECTIONS)}")
        changes.setdefault(section, {})[name] = value
    return check(merged(raw, changes), f"{where} with {', '.join(overrides)[:60]}" if overrides else where)


def _profile(experiment: str, profile: str, below: tuple[str, ...] = ()) -> dict:
    """The mapping of a profile over those that it extends. Raises ParamsError."""
    for word, folder, kind in ((experiment, PARAMS, "experiment"), (profile, PARAMS / experiment, "profile")):
        if word not in (names := _names(folder)):
            raise ParamsError(f"{kind} {word[:60]!r} is not known{nearest(word, names)}; there are: {', '.join(names)}")
    if (name := f"{experiment}/{profile}") in below:
        raise ParamsError(f"{name} extends itself")
    return _extended(read(PARAMS / experiment / f"{profile}.yml"), f"{profile}.yml", (*below, name))


def _extended(raw: dict, where: str, below: tuple[str, ...] = ()) -> dict:
    """A mapping over the profile that its `extends` names. Raises ParamsError."""
    parent, raw = raw.get("extends"), {k: v for k, v in raw.items() if k != "extends"}
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise ParamsError(f"{where}: extends = {shown(parent)}: it is the name of a profile, or EXPERIMENT/PROFILE")
    experiment, slash, profile = parent.rpartition("/")
    try:
        return merged(_profile(experiment if slash else _text(raw, "experiment"), profile, below), raw)
    except ParamsError as error:
        raise ParamsError(f"{where}: extends = {shown(parent)}: {error}") from None


def _text(raw: dict, key: str) -> str:
    return value if isinstance(value := raw.get(key), str) else ""


def _names(folder: Path) -> list[str]:
    """The experiments in `params/`, or the profiles in the folder of one."""
    return sorted(p.stem for p in folder.glob("*/" if folder == PARAMS else "*.yml")) if folder.is_dir() else []


def from_notebook(namespace: dict[str, Any]) -> Params:
    """Params from the variables of a notebook after its `parameters` cell and what papermill injected: the sections that are
    not None, over those of the profile that `extends` or `profile` names. Raises ParamsError, also for a misspelt section.

    The names are kept for when the cell is run again, among variables that came later.
    """
    jupyter, skip = {"In", "Out", "get_ipython", "exit", "quit", "open"}, (ModuleType, FunctionType, type)
    if "_parameters" not in namespace:
        named = (n for n in namespace if not n.startswith("_") and n not in jupyter)
        namespace["_parameters"] = [n for n in named if not isinstance(namespace[n], skip)]
    raw = {n: namespace[n] for n in namespace["_parameters"] if namespace[n] is not None}
    known = _text(raw, "profile") in _names(PARAMS / _text(raw, "experiment"))
    if "extends" not in raw and (known or not raw.keys() >= set(SECTIONS)):
        raw["extends"] = raw.get("profile")
    return check(_extended(raw, "notebook"), "notebook")


def departures(params: Params) -> list[tuple[str, Any, Any]]:
    """`(key, its profile's value, its own)` where a run differs from its profile in more than how it is run."""
    if params.profile not in _names(PARAMS / params.experiment):
        return []
    own = {f"data.{key}": getattr(params.data, key) for key in ("path", "contents")}  # which are said with the data
    apart = {f"train.{name}" for name in FREE} | {"evaluate.trainings", *own}
    alike = params.data.contents and _profile(params.experiment, params.profile)["data"]["name"] == params.data.name
    changed = differences(load(params.experiment, params.profile, own if alike else None), params)
    changed = [(key, x, y) for key, x, y in changed if key != "model.init" or x != unversioned(y)]
    return [c for c in changed if c[0] not in apart and c[:2] != ("train.precision", "auto")]


def check_word(word: str, what: str) -> None:
    """Raises ParamsError where a name cannot be that of a folder."""
    if not re.fullmatch(WORD.strip("^$"), word):
        raise ParamsError(f"{what} {plain(word)[:60]!r}: allowed are up to 40 of a-z, 0-9 and -, the first no -")


def differences(a: Params, b: Params) -> list[tuple[str, Any, Any]]:
    """`(key, value in a, value in b)` for every parameter in which the two differ."""
    left, right = (p.model_dump(mode="json") for p in (a, b))
    pairs = [(f"{s}.{k}", left[s].get(k), right[s].get(k)) for s in SECTIONS for k in left[s] | right[s]]
    return [(key, x, y) for key, x, y in pairs if x != y]

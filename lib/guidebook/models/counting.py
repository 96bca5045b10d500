"""Costs of networks, counted once: of the atlas and of each backbone. Those of the study's own files are kept in the repository."""

import importlib.metadata
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from guidebook.config.params import Params, load
from guidebook.config.paths import RESULTS, runs
from guidebook.models import published
from guidebook.models.atlas import Atlas
from guidebook.models.published import Measured
from guidebook.runs import checked
from guidebook.runs.artifact import artifact, place
from guidebook.runs.manifest import intact

FILE = RESULTS / "costs.json"  # written by `python -m bench.costs`; a test counts them anew
MAKERS = ("torch", "diffusers", "transformers")  # whose versions a count depends on
Spec = dict[str, Any]


def count(atlas: Atlas) -> dict[str, Measured]:
    """The cost of every network of the atlas, by its row's id, and by `id at side` where a law has a forward of its own.

    Raises ParamsError.
    """
    rows, found, made = atlas.resolved(), {}, {}
    for name, row in rows.items():
        made[row.key] = made.get(row.key) or row.measure()
        found[name] = made[row.key]
    for name, side in dict.fromkeys((law.of, side) for law in atlas.laws for side in law.sides):
        found[f"{name} at {side}"] = rows[name].measure(side=side)
    return found


def counted(atlas: Atlas) -> dict[str, Measured]:
    """The same, from where it was counted before."""
    return _once("atlas", spec_of(atlas), lambda: count(atlas))


def spec_of(of: Atlas | Params) -> Spec:
    """All that the costs of an atlas, or of a run's backbone, depend on but for code."""
    if isinstance(of, Params):
        spec = {"network": [of.model, of.data.name, of.data.subset, of.data.resolution, of.text]}
        spec["step"] = [of.train.precision != "fp32", of.train.gradient_checkpointing]
    else:
        spec = {
            "rows": [row.model_dump(mode="json") for row in of.resolved().values()],
            "laws": [(law.of, law.sides) for law in of.laws],
            "params": {row.params: load(*row.params.split("/")) for row in of.counts if row.params},
        }
    return spec | {"versions": {name: importlib.metadata.version(name) for name in MAKERS}}


def cost(params: Params) -> Measured:
    """The cost of a run's backbone. Importing a network takes seconds, so it is counted once."""
    (found,) = _once("cost", spec_of(params), lambda: {"": measured(params)}).values()
    return found


def measured(params: Params) -> Measured:
    """The cost of a run's backbone, counted now, with what a training step keeps."""
    from guidebook.models.activations import kept

    return replace(published.cost(params), **kept(params)._asdict())


def key(kind: str, spec: Spec) -> str:
    """The name under which `FILE` keeps costs."""
    return place(Path(), kind, spec).name


def _once(kind: str, spec: Spec, make: Callable[[], dict[str, Measured]]) -> dict[str, Measured]:
    """Costs by name, from the repository, else from the runs, else counted."""
    with suppress(OSError, ValueError, KeyError):
        return _parsed(checked.load(FILE)[key(kind, spec)])
    spec |= {"code": [file.read_text() for file in sorted(Path(published.__file__).parent.glob("*.py"))]}

    def write(aside: Path) -> None:
        (aside / f"{kind}.json").write_text(json.dumps({name: asdict(m) for name, m in make().items()}))

    folder = place(runs() / "atlas", kind, spec)
    if not intact(folder):
        artifact(runs() / "atlas", kind, spec, write, what="counting networks")
    return _parsed(json.loads((folder / f"{kind}.json").read_text()))


def _parsed(found: dict[str, dict]) -> dict[str, Measured]:
    return {name: Measured(**facts) for name, facts in found.items()}


def answers(atlas: Atlas, at: dict[str, Measured]) -> dict[str, tuple[str, str]]:
    """The finding in words and the verdict of every row that states something, from what `count` gave."""
    rows = atlas.resolved()
    values = {name: row.found(at[name]) for name, row in rows.items()}
    found = {name: (row.words(values[name]), row.verdict(values[name])) for name, row in rows.items()}
    for derived in atlas.derived:
        words, verdict = derived.answer([values[i] for i in derived.of])
        found[derived.id] = f"{derived.says}: {words}", verdict
    for law in atlas.laws:
        power, verdict = law.answer([at[f"{law.of} at {side}"] for side in law.sides])
        found[law.id] = f"{law.says}: the power {power:.3f} of the side", verdict
    return {name: answer for name, answer in found.items() if answer[1]}

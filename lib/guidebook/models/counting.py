"""The networks of the atlas counted: once, then found where rows, params, versions and code are the same."""

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path

from guidebook.config.params import load
from guidebook.config.paths import runs
from guidebook.models import published
from guidebook.models.atlas import Atlas
from guidebook.models.published import Measured
from guidebook.runs.artifact import artifact

MAKERS = ("torch", "diffusers", "transformers")  # whose versions a count depends on


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
    """The same, found where it was counted before, from the same rows, params, versions and code."""
    spec = {
        "rows": [row.model_dump(mode="json") for row in atlas.resolved().values()],
        "laws": [(law.of, law.sides) for law in atlas.laws],
        "params": {row.params: load(*row.params.split("/")) for row in atlas.counts if row.params},
        "code": [file.read_text() for file in sorted(Path(published.__file__).parent.glob("*.py"))],
        "versions": {name: importlib.metadata.version(name) for name in MAKERS},
    }

    def make(aside: Path) -> None:
        (aside / "atlas.json").write_text(json.dumps({name: asdict(m) for name, m in count(atlas).items()}))

    folder = artifact(runs() / "atlas", "atlas", spec, make, what="counting published networks")
    return {name: Measured(**facts) for name, facts in json.loads((folder / "atlas.json").read_text()).items()}


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

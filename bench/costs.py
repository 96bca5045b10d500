"""`python -m bench.costs`: the costs of the atlas and of every profile's backbone; writes `book/results/costs.json`, a minute."""

from dataclasses import asdict

from guidebook.config.params import load
from guidebook.config.paths import PARAMS
from guidebook.models.atlas import load_atlas
from guidebook.models.counting import FILE, count, key, measured, spec_of
from guidebook.models.published import Measured
from guidebook.runs import checked
from guidebook.runs.run import write


def costs(atlas: dict[str, Measured]) -> dict[str, dict[str, dict]]:
    """Those of the atlas and of all backbones, by the names under which they are looked for."""
    found = {key("atlas", spec_of(load_atlas())): _plain(atlas)}
    for file in sorted(PARAMS.glob("*/*.yml")):
        run = load(file.parent.name, file.stem)
        for params in (run, *(run.replace(model=run.network(of.name)) for of in run.evaluate.networks)):
            if (name := key("cost", spec_of(params))) not in found:
                found[name] = _plain({"": measured(params)})
    return found


def _plain(found: dict[str, Measured]) -> dict[str, dict]:
    return {name: asdict(m) for name, m in found.items()}


if __name__ == "__main__":
    write(FILE, checked.dumps(costs(count(load_atlas()))))

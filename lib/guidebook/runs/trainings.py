"""The same run trained again: runs of `submit --seeds` and variants of `evaluate.trainings`, which differ in `train.seed` alone."""

from collections.abc import Iterable
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from guidebook.config.params import ParamsError
from guidebook.runs.run import Run, opened

_seed = attrgetter("params.train.seed")  # of a run


def siblings(run: Run) -> list[Run]:
    """The other trainings of a run, the newest of each seed; of a record those that it holds."""
    found, seed = {}, _seed(run)
    place, within = (run.owner, "") if run.recorded else (run.owner.parent, "[!.]*/")
    for other in _opened([*place.glob(f"{within}params.yml"), *place.glob(f"{within}variants/*/params.yml")]):
        alike = other.params.replace(train={"seed": seed}).training_key == run.params.training_key
        if alike and _seed(other) != seed:
            found[_seed(other)] = other
    return [found[s] for s in sorted(found)]


def variants(run: Run) -> list[Run]:
    """The variants of a run, the oldest first."""
    return _opened(run.path.glob("variants/*/params.yml"))


def turn(run: Run) -> str:
    """`1 of 2`: where a training stands among those that its notebook has asked for so far; empty where it is the only one."""
    own, *others = (run.owner / "params.yml", *run.owner.glob("variants/*/params.yml"))
    began = own.stat().st_mtime_ns  # written anew whenever a notebook begins, and those of its variants after it
    asked = [run.owner, *(file.parent for file in others if file.stat().st_mtime_ns >= began)]
    trained = sum((folder / "model").is_dir() for folder in asked)
    return f"{trained + 1} of {len(asked)}" if len(asked) > 1 else ""


def trained_again(run: Run) -> dict[str, Path]:
    """Folders of the other trainings of a run and of its variants, by the names of the variants that a record keeps them as."""
    own = [run, *(v for v in variants(run) if _seed(v) == _seed(run))]
    named = [(one.name.partition(" · ")[2], other) for one in own for other in siblings(one)]
    return {"-".join(filter(None, (name, f"seed-{_seed(other)}"))): other.path for name, other in named}


def _opened(files: Iterable[Path]) -> list[Run]:
    """The runs of params files, the oldest first, without those of another version."""
    found = []
    for file in sorted(files, key=lambda f: f.stat().st_mtime):
        with suppress(ParamsError):
            found.append(opened(file.parent))
    return found

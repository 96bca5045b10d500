"""The run folder: one place for everything a run needs to be believed, continued and redrawn."""

import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidebook import __version__
from guidebook.config import params as P
from guidebook.config.budget import kept
from guidebook.config.paths import RESULTS, ROOT, runs
from guidebook.runs import checked, facts
from guidebook.runs.manifest import Corrupt, write
from guidebook.runs.place import params_in
from guidebook.runs.resolved import resolved

log = logging.getLogger(__name__)
SHEET = 100  # a record keeps the first so many images of a set, or ten of each class where that is more, of many classes fewer
VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scipy")


class NotRecorded(RuntimeError):
    """Something that a recorded run does not hold. A record can be redrawn, not continued."""


@dataclass(frozen=True)
class Run:
    """Parameters and a folder: params.yml, provenance.json, stats.jsonl, metrics.json, checkpoints/, model/, samples/, variants/."""

    params: P.Params = field(hash=False)  # it is long, and the path differs with it
    path: Path
    recorded: bool  # a copy without weights: it can be redrawn and nothing else

    @property
    def name(self) -> str:
        """`mnist/demo`, or `mnist/demo · caption-dropout` for a variant."""
        variant = re.sub(r"(?<=.)-[0-9a-f]{8}$", "", self.path.name)  # without its key
        return f"{self.params.experiment}/{self.params.profile}" + (f" · {variant}" if self.owner != self.path else "")

    @property
    def owner(self) -> Path:
        """The folder of the run that this is a variant of, else its own."""
        return self.path.parents[1] if self.path.parent.name == "variants" else self.path

    @property
    def finished(self) -> bool:
        """A check that the notebook of the run, or of the one it is a variant of, reached its last cell."""
        return self.recorded or (self.owner / "notebook.ipynb").exists()

    @property
    def trained(self) -> bool:
        return (self.path / "model").is_dir() or bool(self.recorded and self.stats())

    def variant(self, name: str, **sections: dict) -> "Run":
        """The same run with some parameters changed, kept inside this run's folder: `variant("x", train={"lr": 1e-4})`."""
        P.check_word(name, "variant")
        alone = {"evaluate": sections.get("evaluate", {}) | {"networks": []}}  # what is compared is the run's to say
        changed = self.params.replace(**sections | alone)
        if self.recorded:
            return _recorded(changed, self.path / "variants" / name)
        return _live(changed, self.path / "variants" / f"{name}-{changed.training_key}")

    def trainings(self, count: int, name: str = "", **sections: dict) -> list["Run"]:
        """The run, or a variant of it, trained `count` times: with seeds `train.seed`, `train.seed` + 1, …"""
        first, seed = self.variant(name, **sections) if name else self, self.params.train.seed
        found = [first]
        for s in range(seed + 1, seed + count):
            changed = sections | {"train": sections.get("train", {}) | {"seed": s}}
            found.append(self.variant("-".join(filter(None, (name, f"seed-{s}"))), **changed))
        return found

    def needs(self, what: str) -> None:
        """Raises NotRecorded on a recorded run: called where `what` would have to be made."""
        if self.recorded:
            raise NotRecorded(
                f"{what} is not in the record of {self.name}; run `guidebook run {self.params.experiment} "
                f"--profile {self.params.profile}`, then `guidebook record` it"
            )

    def provenance(self) -> dict:
        """The notes on the run. This and what follows raise Corrupt where a file is not what was written."""
        return self._read(checked.load, "provenance.json", facts.Provenance) or {}

    def note(self, **noted: Any) -> None:
        """Adds facts to `provenance.json`."""
        write(self.path / "provenance.json", checked.dumps(self.provenance() | noted))

    def stats(self) -> list[dict]:
        """The lines of `stats.jsonl`; a line cut short by a crash is left out."""
        file, seen = self.path / "stats.jsonl", self.provenance().get("images_seen", 0)
        lines = self._read(checked.load_lines, "stats.jsonl", list[facts.Line]) or []
        done = file.exists() if self.recorded else (self.path / "model").is_dir()  # its last line is of the last image
        if done and (lines[-1]["nimg"] if lines else 0) < seen:
            raise self.corrupt("stats.jsonl", "lacks its last lines")
        return lines

    def metrics(self, **where: Any) -> list[dict]:
        """The metric records whose fields have the given values."""
        records = self._read(checked.load_records, "metrics.json", list[facts.Measured]) or []
        return [{**r} for r in records if all(r.get(k) == v for k, v in where.items())]

    def add_metrics(self, records: list[dict]) -> None:
        write(self.path / "metrics.json", checked.dumps({"records": self.metrics() + records}))

    def corrupt(self, name: str, what: str = "is not what was written") -> Corrupt:
        """The error of a file in the folder, with what to do."""
        lost = self.path / name if name == "metrics.json" else self.owner  # all can be measured anew
        again = "`guidebook record` its run again" if self.recorded else f"delete {lost} and run again"
        return Corrupt(f"{self.path / name} {what}; put it back, or {again}")

    def _read(self, how: Callable, name: str, kind: Any) -> Any:
        """The facts of a file, if it is there, with values of their kinds."""
        file = self.path / name
        try:
            state = file.stat()
            value, wrong = facts.held(how, kind, file, state.st_ino, state.st_size, state.st_ctime_ns)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise self.corrupt(name) from None
        if wrong:
            raise self.corrupt(name, f"has {wrong}")
        return value


def open_run(params: P.Params) -> Run:
    """The run of these parameters, made if it is new. The folder's name holds a key of all that training depends on.

    Where `$GUIDEBOOK_RECORD` names a recorded run, that one is opened: the page is redrawn from it and nothing is computed.
    """
    if record := os.environ.get("GUIDEBOOK_RECORD"):
        return _recorded(params, Path(record))
    if not (folder(params) / "params.yml").exists():  # a run keeps the encoders it began with
        params = resolved(params)
    return _live(params, folder(params))


def folder(params: P.Params) -> Path:
    return runs() / params.experiment / f"{params.profile}-{params.training_key}"


def opened(path: Path | str) -> Run:
    """The run in a folder. Raises ParamsError where there is none."""
    path = Path(path)
    if not (path / "params.yml").is_file():
        raise P.ParamsError(f"{path} is not a run folder: it holds no params.yml")
    params, recorded = params_in(path, RESULTS)
    return Run(params, path, recorded)


def find(experiment: str, profile: str) -> Run:
    """The `foremost` run of an experiment's profile that is finished, live or recorded. Raises ParamsError where there is none."""
    if record := os.environ.get("GUIDEBOOK_RECORD"):
        return replace(opened(Path(record)), recorded=True)
    live = (file.parent for file in _by_age(runs(), f"{experiment}/{profile}-????????/notebook.ipynb"))
    if found := foremost(_readable(f for f in (RESULTS / experiment / profile, *live) if (f / "params.yml").exists())):
        return found[0]
    P.load(experiment, profile)  # or there is no such profile
    raise P.ParamsError(f"no run of {experiment}/{profile} yet: guidebook run {experiment} --profile {profile}")


def every_run() -> list[Run]:
    """Every recorded and every live run, with its variants; of each kind the oldest first. A record without parameters is named."""
    patterns = "*/[!.]*/params.yml", "*/[!.]*/variants/*/params.yml"
    records = (folder for p in patterns for folder in RESULTS.glob(p.removesuffix("params.yml")))
    lost = [folder for folder in records if not (folder / "params.yml").exists()]
    return _readable([*lost, *(file.parent for root in (RESULTS, runs()) for file in _by_age(root, *patterns))])


def usable(runs: Iterable[Run]) -> list[Run]:
    """The runs whose files hold what pages show of them; a warning names the others."""
    return _readable(runs, lambda run: (run.stats(), run.metrics()) and run)


def foremost(every: list[Run]) -> list[Run]:
    """One run of each name, with its variants, of runs with the oldest first. It is finished, if one is; it keeps to its
    profile, else to the profile's seed, and sees the most images; of equals it is the newest."""
    ranked = sorted(every, key=lambda run: (run.finished, *kept(run.params)))
    owners = {run.name: run.path for run in ranked if run.owner == run.path}
    found = {run.name: run for run in every if run.owner in owners.values()}
    return [found[name] for name in sorted(found)]


def _readable(places: Iterable, read: Callable = opened) -> list[Run]:
    """The runs in folders, or of those opened, without those that cannot be read; a warning names them."""
    found = []
    for place in places:
        try:
            found.append(read(place))
        except (P.ParamsError, Corrupt) as error:
            log.warning("left out: %s: %s", getattr(place, "path", place), error)
    return found


@functools.cache
def commit() -> dict:
    """The git commit and whether files that code or parameters live in differ from it."""

    def git(*args):
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", "lib", "params", "notebooks")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _live(params: P.Params, path: Path) -> Run:
    run, made = Run(params, path, recorded=False), ("params.yml", "stats.jsonl", "metrics.json", "checkpoints", "model")
    path.mkdir(parents=True, exist_ok=True)
    begun = any((path / name).exists() for name in made)
    if not run.provenance():  # written before all else
        if begun:  # and not with today's commit
            raise run.corrupt("provenance.json", "is gone")
        versions = {p: importlib.metadata.version(p) for p in VERSIONS}
        run.note(**commit(), versions=versions | {"guidebook": __version__, "python": platform.python_version()})
    write(path / "params.yml", checked.with_comment(params.yaml()))
    return run


def _recorded(params: P.Params, path: Path) -> Run:
    if not (path / "params.yml").exists():
        raise NotRecorded(f"{path.parent.name}/{path.name} holds no recorded run")
    if (known := opened(path).params).training_key != params.training_key:
        keys = ", ".join(k for k, _, _ in P.differences(known, params))
        raise NotRecorded(f"the record {path.name} was made with other parameters ({keys}): record it again")
    return Run(params, path, recorded=True)


def _by_age(root: Path, *patterns: str) -> list[Path]:
    """The files of a folder, the oldest first."""
    return sorted((f for pattern in patterns for f in root.glob(pattern)), key=lambda f: f.stat().st_mtime)

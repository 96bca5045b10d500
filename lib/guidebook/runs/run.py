"""The run folder: one place for everything a run needs to be believed, continued and redrawn."""

import functools
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guidebook import __version__
from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.config.paths import RESULTS, ROOT, runs
from guidebook.runs.manifest import write

log = logging.getLogger(__name__)
SHEET = 100  # a record keeps the first so many images of a set, or ten of each class where that is more
VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scipy")


class NotRecorded(RuntimeError):
    """Something that a recorded run does not hold. A record can be redrawn, not continued."""


@dataclass(frozen=True)
class Run:
    """Parameters and a folder: params.yml, provenance.json, stats.jsonl, metrics.json, checkpoints/, model/, samples/, variants/."""

    params: P.Params
    path: Path
    recorded: bool  # a copy without weights: it can be redrawn and nothing else

    @property
    def name(self) -> str:
        """`mnist/demo`, or `mnist/demo · caption-dropout` for a variant."""
        base = f"{self.params.experiment}/{self.params.profile}"
        return f"{base} · {_without_key(self.path.name)}" if self.owner != self.path else base

    @property
    def owner(self) -> Path:
        """The folder of the run that this is a variant of, else its own."""
        return self.path.parents[1] if self.path.parent.name == "variants" else self.path

    @property
    def finished(self) -> bool:
        """Whether the notebook of the run, or of the one it is a variant of, reached its last cell."""
        return self.recorded or (self.owner / "notebook.ipynb").exists()

    @property
    def trained(self) -> bool:
        return (self.path / "model").is_dir() or bool(self.recorded and self.stats())

    def variant(self, name: str, **sections: dict) -> "Run":
        """The same run with some parameters changed, kept inside this run's folder: `variant("x", train={"lr": 1e-4})`."""
        P.check_word(name, "variant")
        changed = self.params.replace(**sections)
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
        return _read(self.path / "provenance.json", {})

    def note(self, **facts: Any) -> None:
        """Adds facts to `provenance.json`."""
        write(self.path / "provenance.json", json.dumps(self.provenance() | facts, indent=1))

    def stats(self) -> list[dict]:
        """The lines of `stats.jsonl`; a line cut short by a crash is left out."""
        file = self.path / "stats.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def metrics(self, **where: Any) -> list[dict]:
        """The metric records whose fields have the given values."""
        records = _read(self.path / "metrics.json", [])
        return [r for r in records if all(r.get(k) == v for k, v in where.items())]

    def add_metrics(self, records: list[dict]) -> None:
        write(self.path / "metrics.json", json.dumps(self.metrics() + records, indent=1, allow_nan=False))


def open_run(params: P.Params) -> Run:
    """The run of these parameters, made if it is new. The folder's name holds a key of all that training depends on.

    Where `$GUIDEBOOK_RECORD` names a recorded run, that one is opened: the page is redrawn from it and nothing is computed.
    """
    if record := os.environ.get("GUIDEBOOK_RECORD"):
        return _recorded(params, Path(record))
    if not (folder(params) / "params.yml").exists():  # a run keeps the encoders it began with
        params = resolved(params)
    return _live(params, folder(params))


def resolved(params: P.Params) -> P.Params:
    """The parameters with what depends on this machine: the encoders whose weights are available, and the precision."""
    changes = {"text": {"encoder": pretrained.resolve(params.text.encoder)}}
    if params.model.vae:
        changes["model"] = {"vae": pretrained.resolve(params.model.vae)}
    if params.train.precision == "auto":
        from guidebook.runtime.precision import native_bf16

        changes["train"] = {"precision": "bf16" if native_bf16() else "fp32"}
    return params.replace(**changes)


def folder(params: P.Params) -> Path:
    return runs() / params.experiment / f"{params.profile}-{params.training_key}"


def opened(path: Path | str) -> Run:
    """The run in a folder. Raises ParamsError where there is none."""
    path = Path(path)
    if not (path / "params.yml").is_file():
        raise P.ParamsError(f"{path} is not a run folder: it holds no params.yml")
    params = P.check(P.read(path / "params.yml"), path.name)
    return Run(params, path, recorded=path.resolve().is_relative_to(RESULTS.resolve()))


def find(experiment: str, profile: str) -> Run:
    """The newest finished run of an experiment's profile, else its record. Raises ParamsError where there is neither."""
    if record := os.environ.get("GUIDEBOOK_RECORD"):
        return replace(opened(Path(record)), recorded=True)
    live = [file.parent for file in reversed(_by_age(runs(), f"{experiment}/{profile}-????????/notebook.ipynb"))]
    for path in (*live, RESULTS / experiment / profile):
        if (path / "params.yml").exists():
            return opened(path)
    P.load(experiment, profile)  # or there is no such profile
    raise P.ParamsError(f"no run of {experiment}/{profile} yet: guidebook run {experiment} --profile {profile}")


def every_run() -> list[Run]:
    """Every recorded and every live run, with its variants; of each kind the oldest first."""
    found = []
    for root in (RESULTS, runs()):
        for file in _by_age(root, "*/[!.]*/params.yml", "*/[!.]*/variants/*/params.yml"):
            try:
                found.append(opened(file.parent))
            except P.ParamsError as error:
                log.warning("left out: %s", error)
    return found


def all_runs() -> list[Run]:
    """One run of each name, with its variants: the newest finished one, else a record, else one that is not finished."""
    found: dict[str, Run] = {}
    for run in every_run():
        if run.finished or run.name not in found:
            found[run.name] = run
    return [found[name] for name in sorted(found)]


def record(run: Run, also: Mapping[str, Path] | None = None) -> Path:
    """Copies a finished run, without weights, to `book/results/<experiment>/<profile>/`: some hundred kB; more folders as variants."""
    if not (run.path / "notebook.ipynb").exists():
        raise FileNotFoundError(f"{run.path} is not finished: no complete notebook.ipynb; run `guidebook run` first")
    target = RESULTS / run.params.experiment / run.params.profile
    if target.is_dir() and (changed := P.differences(opened(target).params, run.params)):
        changes = ", ".join(f"{key} {b} for {a}" for key, a, b in changed)
        log.warning("%s replaces a record of other parameters: %s", run.path.name, changes[:300])
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    newest = {_without_key(f.parent.name): f.parent for f in _by_age(run.path, "variants/*/params.yml")} | dict(
        also or {}
    )
    for source, copy in ((run.path, aside), *((path, aside / "variants" / name) for name, path in newest.items())):
        _copy_record(source, copy)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)
    return target


@functools.cache
def commit() -> dict:
    """The git commit and whether files that code or parameters live in differ from it."""

    def git(*args):
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", "lib", "params", "notebooks")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _live(params: P.Params, path: Path) -> Run:
    run = Run(params, path, recorded=False)
    path.mkdir(parents=True, exist_ok=True)
    write(path / "params.yml", params.yaml())
    if not run.provenance():
        versions = {p: importlib.metadata.version(p) for p in VERSIONS}
        run.note(**commit(), versions=versions | {"guidebook": __version__, "python": platform.python_version()})
    return run


def _recorded(params: P.Params, path: Path) -> Run:
    if not (path / "params.yml").exists():
        raise NotRecorded(f"{path.parent.name}/{path.name} holds no recorded run")
    known = P.check(P.read(path / "params.yml"), path.name)
    if known.training_key != params.training_key:
        keys = ", ".join(k for k, _, _ in P.differences(known, params))
        raise NotRecorded(f"the record {path.name} was made with other parameters ({keys}): record it again")
    return Run(params, path, recorded=True)


def _copy_record(source: Path, target: Path) -> None:
    names = ("params.yml", "provenance.json", "stats.jsonl", "metrics.json", "set.json", "sheet.png")
    for file in (file for name in names for file in (source / name, *source.glob(f"samples/[!.]*/{name}"))):
        if file.exists():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _by_age(root: Path, *patterns: str) -> list[Path]:
    """The files of a folder, the oldest first."""
    return sorted((f for pattern in patterns for f in root.glob(pattern)), key=lambda f: f.stat().st_mtime)


def _without_key(name: str) -> str:
    return re.sub(r"(?<=.)-[0-9a-f]{8}$", "", name)


def _read(path: Path, default):
    return json.loads(path.read_text()) if path.exists() else default

"""Recorded runs: copies of finished ones without weights, in `book/results`, from which their pages are redrawn."""

import filecmp
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guidebook.config import params as P
from guidebook.config.paths import runs
from guidebook.runs import run as R
from guidebook.runs.executed import complete
from guidebook.runs.lock import Locked, lock
from guidebook.runs.manifest import Corrupt, checksum, delete, me, take_place, verify, writing
from guidebook.runs.trainings import trained_again, variants

log = logging.getLogger(__name__)
BEGUN = {"params.yml", "provenance.json", ".lock", "processes.log"}  # files of a run of which nothing was made yet
FACTS, SETS = ("params.yml", "provenance.json", "stats.jsonl", "metrics.json"), ("set.json", "sheet.png")


@contextmanager
def begun(params: P.Params) -> Iterator[R.Run]:
    """The run of these parameters, to work on. Where that is refused before anything was made, no folder of a run stays."""
    run = R.open_run(params)
    try:
        yield run
    except Exception:
        with suppress(OSError, Locked, P.ParamsError):  # another process works on it, or removed it; or it is a record
            if {file.name for file in run.path.rglob("*") if file.is_file()} <= BEGUN:
                removed(run.path).parent.rmdir()
        raise


def record(run: R.Run) -> Path:
    """Copies a finished run, some hundred kB, to `book/results/<experiment>/<profile>/`; its other trainings become variants.

    Everything is checked against what was written, and the record before it stays until this one is whole. Raises
    FileNotFoundError where the run is not finished, Corrupt, and OSError where the disk is full.
    """
    if not complete(run.path / "notebook.ipynb"):
        raise FileNotFoundError(
            f"{run.path} is not finished: it has no complete notebook.ipynb; run `guidebook run {run.params.experiment} "
            f"--profile {run.params.profile}` with its parameters first, which makes nothing again that is there"
        )
    target = R.RESULTS / run.params.experiment / run.params.profile
    if target.is_dir():
        try:
            changed = ", ".join(
                f"{key} {b} for {a}" for key, a, b in P.differences(R.opened(target).params, run.params)
            )
        except (P.ParamsError, Corrupt) as error:
            changed = str(error)
        if changed:
            log.warning("%s replaces a record of other parameters: %s", run.path.name, changed[:300])
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}-{me()}")
    with writing(aside, f"the record {target.parent.name}/{target.name}"):
        _copy(run.path, aside)
        newest = {variant.name.partition(" · ")[2]: variant.path for variant in variants(run)}
        for name, path in (newest | trained_again(run)).items():
            _copy(path, aside / "variants" / name)
        checksum(aside)
        take_place(aside, target)
    return target


def removed(folder: Path) -> Path:
    """Deletes the folder of a run, or of a variant. Raises ParamsError where it is none, or one of a record, and Locked."""
    if not any(folder.resolve().match(f"{runs().resolve()}/{inner}") for inner in ("*/*-*", "*/*-*/variants/*-*")):
        raise P.ParamsError(f"{folder} is not the folder of a run in {runs()}")
    with lock(folder):
        delete(folder)
    return folder


def _copy(source: Path, target: Path) -> None:
    """A copy of the files of a run that a record keeps: verified where they lie, and compared with the copy."""
    copied = []
    for folder, names in ((source, FACTS), *((folder, SETS) for folder in sorted(source.glob("samples/[!.]*")))):
        copy = target / folder.relative_to(source)
        copy.mkdir(parents=True)
        copied += [
            (file, shutil.copyfile(file, copy / file.name)) for name in names if (file := folder / name).exists()
        ]
        if names is SETS:
            verify(folder, f"delete {folder} and run again: it is drawn anew")
    run = R.opened(source)
    run.stats(), run.metrics()  # raise Corrupt
    if not run.provenance():
        raise run.corrupt("provenance.json", "is gone")
    for file, copy in copied:
        if not filecmp.cmp(file, copy, shallow=False):
            raise Corrupt(f"{file} changed while it was recorded; record it again")

"""Where the files of a data set lie: on this machine, in the hub's cache, or on the Hugging Face hub. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from guidebook.config import hub, own
from guidebook.config.datasets import CATALOG, DataError, Subset
from guidebook.config.own import Own
from guidebook.config.paths import local_data
from guidebook.config.schema import Data


@dataclass(frozen=True)
class Files:
    """The parquet files of a data set."""

    source: str  # where they came from: "local parquet", "hub", "hub, streamed", "drawn", "own images"
    train: list  # or addresses to stream from: hf://datasets/…; of images of one's own, their files, some at a time
    test: list[Path]  # none where every tenth row of the others is held out
    revision: str | None = None  # of the hub's repository, where the catalog names none
    missing: str | None = None  # which are not there: "none of the test-*.parquet"
    own: Own | None = None  # what images of one's own say of themselves, their labels among it


def located(name: str, subset: Subset | None = None, download: bool = False) -> Files:
    """The files of a data set: in `$GUIDEBOOK_DATA/<name>`, else in the hub's cache, else downloaded into it. Raises DataError.

    What is streamed stays on the hub, unless `download`. A subset is never looked for on the hub.
    """
    entry, files = CATALOG[name], _found(name, subset)
    if not files.missing:
        return files
    if files.source == "local parquet":
        raise DataError(
            f"data set {name}: {files.missing} in $GUIDEBOOK_DATA/{(subset and subset.folder) or name}; all are needed"
        )
    if entry.window and not download:
        return _addresses(name)
    patterns = [f"*{split}-*.parquet" for split in entry.splits]
    what = {"repo_type": "dataset", "revision": entry.revision, "allow_patterns": patterns}
    if why := hub.download(entry.hub, lambda: available(name), **what):
        raise _refused(name, why)
    return _found(name)


def files_of(data: Data, download: bool = False) -> Files:
    """The files of a data section, where its set has some. Raises DataError where they are not to be had, or other images than it says."""
    if not data.contents:
        return located(data.name, data.subset, download)
    there = own.found(data.path)
    if there.contents != data.contents:
        raise DataError(
            f"{data.path} holds other images than those that this run is of: put them back, or start a new run"
        )
    return Files("own images", there.files["train"], there.files["test"], own=there)


def of_split(name: str, split: str) -> list[Path]:
    """The files of one split, where no other is needed: in `$GUIDEBOOK_DATA/<name>`, else as `located`. Raises DataError."""
    root = local_data()
    local = sorted((root / name).glob(f"{split}-*.parquet")) if root else []
    return local if local and _every(local) else getattr(located(name), split)


def available(name: str, subset: Subset | None = None) -> bool:
    """A check for a data set that needs no download: it is embedded, or its files are all on this machine."""
    return name == own.NAME or CATALOG[name].stand_in is None or not _found(name, subset).missing


def _found(name: str, subset: Subset | None = None) -> Files:
    """The files of a data set on this machine: in `$GUIDEBOOK_DATA/<name>` where that holds some, else in the hub's cache."""
    entry, root, splits, missing = CATALOG[name], local_data(), [], None
    place = root and root / ((subset and subset.folder) or name)
    local = bool(subset or not entry.hub or (place and any(place.glob("train-*.parquet"))))
    folder = place if local else hub.cached(entry.hub, entry.revision, "dataset")
    for split in entry.splits:
        found = folder.rglob(f"{split}-*.parquet") if folder else []
        files = sorted(f for f in found if f.is_file())  # a link into nothing is no file
        splits.append(files)
        if not (files if subset else _every(files)):  # the files of a subset need not be all: its rows are counted
            some = f"only {', '.join(f.name for f in files)[:200]}" if files else "none"
            missing = missing or f"{some} of the {split}-*.parquet"
    train, test = splits if len(splits) == 2 else (*splits, [])
    revision = None if local or entry.revision else folder.name
    return Files("local parquet" if local else "hub", train, test, revision, missing)


def _every(files: list[Path]) -> bool:
    """A check that there are files, and none is missing of those numbered as in `train-00000-of-00003.parquet`."""
    parts = [re.search(r"-(\d+)-of-(\d+)\.parquet$", f.name) for f in files]
    if not all(parts):
        return True
    numbers, totals = [int(p[1]) for p in parts], {int(p[2]) for p in parts}
    return len(totals) == 1 and numbers == list(range(*totals))


def _addresses(name: str) -> Files:
    """The addresses of the training files on the hub, at its newest revision. Raises DataError."""
    from huggingface_hub import HfApi

    repo = CATALOG[name].hub
    try:
        found = HfApi().dataset_info(repo, revision=CATALOG[name].revision)
        files = [f.rfilename for f in found.siblings if re.search(r"(^|/)train-[^/]*\.parquet$", f.rfilename)]
    except Exception as error:  # of the network or the hub: what matters here is what to do
        raise _refused(name, type(error).__name__) from None
    return Files("hub, streamed", [f"hf://datasets/{repo}@{found.sha}/{file}" for file in files], [], found.sha)


def _refused(name: str, why: str) -> DataError:
    return DataError(
        f"data set {name}: no $GUIDEBOOK_DATA/{name}/train-*.parquet, not in the hub's cache, and the hub did not give "
        f"{CATALOG[name].hub} ({why}); run `guidebook fetch EXPERIMENT` on a machine with internet, or put the hub's "
        f"parquet files into $GUIDEBOOK_DATA/{name}, or set data.name={CATALOG[name].stand_in}"
    )

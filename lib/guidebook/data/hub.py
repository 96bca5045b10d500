"""Where the files of a data set lie: on this machine, in the hub's cache, or on the Hugging Face hub."""

import re
from pathlib import Path

from guidebook.config.datasets import CATALOG, DataError, parquet_files, snapshot, whole
from guidebook.config.paths import local_data

# The embedded set for those without internet
STAND_IN = {"mnist": "digits", "cifar10": "scenes", "wikiart": "paintings", "celeba": "faces", "imagenet100": "scenes"}


def downloaded(name: str) -> Path:
    """The folder of the hub's parquet files at the pinned revision: in the cache, else downloaded into it. Raises DataError."""
    entry = CATALOG[name]
    if folder := snapshot(name):
        return folder
    from huggingface_hub import snapshot_download

    what = {"revision": entry.revision, "allow_patterns": ["*train-*.parquet", f"*{entry.tests}-*.parquet"]}
    try:
        folder = Path(snapshot_download(entry.hub, repo_type="dataset", **what))
        failed = None if whole(folder, name) else "files are missing"  # offline, it gives what the cache has of them
    except Exception as error:  # of the network, the hub, the disk: what matters here is what to do
        failed = type(error).__name__
    if failed:
        raise _not_available(name, failed)
    return folder


def split_files(folder: Path, name: str, split: str) -> list[Path]:
    """The parquet files of a split. Raises DataError where they are not all there."""
    files, every = parquet_files(folder, CATALOG[name].tests if split == "test" else split)
    if not every:
        some = f"only {', '.join(f.name for f in files)[:200]}" if files else "none"
        place = f"$GUIDEBOOK_DATA/{name}" if folder == local_data(name) else folder
        raise DataError(f"data set {name}: {some} of the {split}-*.parquet in {place}; all are needed")
    return files


def streamed(name: str) -> tuple[str, list, str]:
    """Source, paths or addresses of the training files, and what the note says of them. Raises DataError."""
    if folder := local_data(name):
        return "local parquet", split_files(folder, name, "train"), ""
    if folder := snapshot(name):
        return "hub", split_files(folder, name, "train"), f"; revision {folder.name}"
    from huggingface_hub import HfApi

    hub = CATALOG[name].hub
    try:
        found = HfApi().dataset_info(hub, revision=CATALOG[name].revision)
        files = [f.rfilename for f in found.siblings if re.search(r"(^|/)train-[^/]*\.parquet$", f.rfilename)]
    except Exception as error:  # of the network or the hub: what matters here is what to do
        raise _not_available(name, type(error).__name__) from None
    return "hub, streamed", [f"hf://datasets/{hub}@{found.sha}/{file}" for file in files], f"; revision {found.sha}"


def _not_available(name: str, failed: str) -> DataError:
    return DataError(
        f"data set {name}: no $GUIDEBOOK_DATA/{name}/train-*.parquet, not in the hub's cache, and the hub did not give "
        f"{CATALOG[name].hub} ({failed}); run `guidebook fetch EXPERIMENT` on a machine with internet, or put the hub's "
        f"parquet files into $GUIDEBOOK_DATA/{name}, or set data.name={STAND_IN[name]}"
    )

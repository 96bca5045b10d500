"""Data sets of the Hugging Face hub, in its cache on this machine."""

from pathlib import Path

from guidebook.config.datasets import CATALOG, DataError, snapshot, whole

# The embedded set for those without internet
STAND_IN = {
    "mnist": "digits",
    "cifar10": "scenes",
    "wikiart": "paintings",
    "celeba": "faces",
    "imagenet100": "scenes",
}


def downloaded(name: str) -> Path:
    """The folder of the hub's parquet files at the pinned revision: in the cache, else downloaded into it. Raises DataError."""
    entry = CATALOG[name]
    if folder := snapshot(name):
        return folder
    from huggingface_hub import snapshot_download

    pinned = {
        "repo_type": "dataset",
        "revision": entry.revision,
        "allow_patterns": ["*train-*.parquet", f"*{entry.tests}-*.parquet"],
    }
    try:
        folder = Path(snapshot_download(entry.hub, **pinned))
        failed = None if whole(folder, name) else "files are missing"  # offline, it gives what the cache has of them
    except Exception as error:  # of the network, the hub, the disk: what matters here is what to do
        failed = type(error).__name__
    if failed:
        raise not_given(name, failed)
    return folder


def not_given(name: str, failed: str) -> DataError:
    """What to do where neither this machine nor the hub has a data set."""
    return DataError(
        f"data set {name}: no $GUIDEBOOK_DATA/{name}/train-*.parquet, not in the hub's cache, and the hub did not give "
        f"{CATALOG[name].hub} ({failed}); run `guidebook fetch EXPERIMENT` on a machine with internet, or put the hub's "
        f"parquet files into $GUIDEBOOK_DATA/{name}, or set data.name={STAND_IN[name]}"
    )

"""The cache of the Hugging Face hub: where a repository's snapshot lies in it, and how it comes there. Imports no torch."""

from collections.abc import Callable
from pathlib import Path

from guidebook.config.errors import plain


def cached(repo: str, revision: str | None, kind: str = "model") -> Path:
    """Where a snapshot lies in the cache, if it is there: at a commit, or else the newest that the cache has. No network."""
    from huggingface_hub import constants  # and not what names the folder, which imports all that downloads

    place = Path(constants.HF_HUB_CACHE) / "--".join((f"{kind}s", *repo.split("/")))
    newest = place / "refs" / "main"
    return place / "snapshots" / (revision or (newest.read_text().strip() if newest.is_file() else "none"))


def download(repo: str, complete: Callable[[], bool], **what) -> str | None:
    """Brings a snapshot into the cache; returns why that failed, in a few words. `what` chooses files, in the words of the hub's client."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repo, **what)
    except Exception as error:  # of the network, the hub, the disk: what matters is what to do, and the caller knows it
        return f"{type(error).__name__}: {plain(error)[:100]}"
    return None if complete() else "files are missing"  # offline, the client gives what the cache has of them

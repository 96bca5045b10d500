"""Image sets too large for memory: streamed while training, decoded once for everything else."""

import functools
import os
import re
from pathlib import Path

from tqdm import tqdm

from guidebook.config.datasets import CATALOG, DataError, Entry, parquet_files, snapshot
from guidebook.config.params import Data
from guidebook.config.paths import local_data, runs
from guidebook.data.decoded import Decoded, Filling, opened, place
from guidebook.data.hub import not_given
from guidebook.data.shards import HELD, Shards
from guidebook.data.split import Split
from guidebook.data.stream import Stream
from guidebook.runtime.distributed import world

DRAWN, FILES = "paintings-v1", 6  # another number for other pixels; files that the drawn paintings are written to
AHEAD = 64  # images decoded before they are asked for


class Streamed:
    """A set of images too large for memory. What it has in common with `Images` has the same names; `train` and `test` are
    memory-mapped and decoded when first asked for, which takes a while. Raises DataError.
    """

    def __init__(self, data: Data):
        entry = CATALOG[data.name]
        self.classes, self.bad_share = entry.classes, entry.bad_share
        self.source, files, where = _files(data, entry)
        self.note = entry.note + where
        self.shards = Shards(files, entry.image, entry.label, len(entry.classes), data.limit)
        self.window, self.resolution = entry.window, data.resolution
        self.folder, self._found = place(runs() / "data", self.shards, data.resolution), None
        # The shards', the resolution and how it was decoded
        self.fingerprint = self.folder.name.removeprefix("decoded-")
        self._bad: dict[int, str] = {}  # rows met so far that cannot be read

    def found(self) -> Decoded | None:
        """What was decoded before, None where something is missing."""
        self._found = self._found or opened(self.folder)
        return self._found

    @functools.cached_property
    def train(self) -> Split:
        return Split(*self.decoded.split("train"))

    @functools.cached_property
    def test(self) -> Split:
        return Split(*self.decoded.split("test"))

    @property
    def skipped(self) -> tuple[str, ...]:
        """The bad images by name: all, once all are decoded, else those that were met."""
        found = self.found()
        return found.skipped if found else tuple(self._bad[row] for row in sorted(self._bad))

    @property
    def progressive(self) -> int | None:
        """How many of the images are progressive, once all are decoded."""
        found = self.found()
        return found.progressive if found else None

    @functools.cached_property
    def decoded(self) -> Decoded:
        """Every image at its resolution: found, else decoded now. Any number of processes share the work, one does it alone.

        Raises OSError where the disk has no room for them.
        """
        if found := self.found():
            return found
        filling = Filling(self.folder, self.shards, self.resolution)
        rank, size = world().process_index, world().num_processes
        shown = {"desc": "decoding", "unit": "img", "mininterval": 1, "disable": not world().is_main_process}
        start = rank * self.shards.train_rows // size  # each begins elsewhere, and passes over what others did
        with self.stream(0, start, 1, filling) as stream, tqdm(total=self.shards.train_rows, **shown) as bar:
            while (found := filling.done()) is None:
                stream.next(8)
                bar.update(min(8 * size, bar.total - bar.n))
        return found

    def stream(self, seed: int, start: int, stride: int, keep: Filling | None) -> Stream:
        """Images number `start`, `start + stride`, … of the order that `seed` gives."""
        threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        order = (seed, self.window, start, stride)
        return Stream(self.shards, self.resolution, *order, threads, AHEAD, self.bad_share, self._bad, keep)


def _files(data: Data, entry: Entry) -> tuple[str, list, str]:
    """Where the shards come from, their paths or addresses, and what the note says of that. Raises DataError."""
    if entry.hub is None:
        return "drawn", _paintings(data, entry), ""
    if folder := local_data(data.name):
        files, every = parquet_files(folder, "train")
        if not every:
            raise DataError(
                f"data set {data.name}: only {len(files)} of the train-*.parquet in $GUIDEBOOK_DATA/{data.name}; all are needed"
            )
        return "local parquet", files, ""
    if folder := snapshot(data.name):
        return "hub", parquet_files(folder, "train")[0], f"; revision {folder.name}"
    return "hub, streamed", *_remote(data.name, entry)


def _remote(name: str, entry: Entry) -> tuple[list[str], str]:
    """Addresses of the hub's parquet files, of one commit. Raises DataError."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(entry.hub, revision=entry.revision)
        files = [f.rfilename for f in found.siblings if re.search(r"(^|/)train-[^/]*\.parquet$", f.rfilename)]
    except Exception as error:  # of the network or the hub: what matters here is what to do
        raise not_given(name, type(error).__name__) from None
    return [f"hf://datasets/{entry.hub}@{found.sha}/{file}" for file in files], f"; revision {found.sha}"


def _paintings(data: Data, entry: Entry) -> list[Path]:
    """The drawn paintings, as many as the limit needs; painted now where they are not there yet."""
    from guidebook.data.drawn import paintings

    every = entry.train + entry.test
    rows = min(every, data.limit + (data.limit - 1) // (HELD - 1)) if data.limit else every
    folder = runs() / "data" / f"{DRAWN}-{rows}"
    if not folder.is_dir():
        paintings.write(folder, rows, seed=0, files=FILES)
    return parquet_files(folder, "train")[0]

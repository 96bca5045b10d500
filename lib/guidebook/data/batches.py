"""Batches of a training: from the device's memory, from memory-mapped arrays, or streamed and decoded while training goes on.

A stream holds one window of rows, whatever image it begins at: one thread reads row groups, at the pace at which rows are used up,
several decode, and a bounded queue keeps them from running ahead.
"""

import collections
import contextlib
import itertools
import logging
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from guidebook.config.datasets import HELD, DataError
from guidebook.config.schema import Train
from guidebook.data.cache import threads
from guidebook.data.decode import quiet
from guidebook.data.images import Images, Split, Streamed
from guidebook.data.order import in_files, order, shuffled
from guidebook.data.shards import Row, Window
from guidebook.runtime.distributed import world

AHEAD = 64  # images decoded before they are needed
log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """This process's share of a batch: b images."""

    images: torch.Tensor  # (b, C, H, W) uint8, on the device
    labels: torch.Tensor  # (b,) int64, on the CPU
    index: torch.Tensor  # (b,) which images of the training split, on the CPU
    epoch: torch.Tensor  # (b,) in which each is seen, on the CPU


def feed(data: Images | Streamed, train: Train) -> "Resident | Ahead":
    """The feed of batches: this process's share of each."""
    return Ahead(data, train) if isinstance(data, Streamed) else Resident(data.train, train)


class Resident:
    """Images that lie in the device's memory."""

    def __init__(self, split: Split, train: Train):
        self.images, self.labels, self._train = split.images.to(world().device), split.labels, train
        self._order = in_files(split.labels, train.file_rows) if train.file_rows else shuffled

    def batch(self, nimg: int) -> Batch:
        """This process's share of the batch after `nimg` images."""
        n = len(self.labels)
        index = order(n, self._train.seed, nimg, self._train.batch, self._order)[_mine()]
        there = index.to(self.images.device, non_blocking=True)
        return Batch(self.images[there], self.labels[index], index, _epochs(n, nimg, self._train.batch))

    def close(self) -> None: ...


class Ahead:
    """Streamed images: the first epoch decodes and keeps them, later ones find them. The next batch is prepared during the step."""

    def __init__(self, data: Streamed, train: Train):
        self._data, self._train, self._device = data, train, world().device
        self._stream, self._thread = None, ThreadPoolExecutor(1, "next batch")
        self._coming: tuple[int, Future] | None = None
        self._side = torch.cuda.Stream() if self._device.type == "cuda" else None
        if data.cache.complete():
            return
        try:
            if world().num_processes > int(os.environ.get("LOCAL_WORLD_SIZE", world().num_processes)):
                raise OSError("no machine sees all of them; `guidebook fetch EXPERIMENT --decode` decodes them once")
            data.cache.keep()
        except OSError as error:
            log.warning("every epoch decodes its images anew: %s", error)

    def batch(self, nimg: int) -> Batch:
        """This process's share of the batch after `nimg` images. Raises DataError."""
        if self._coming is None or self._coming[0] != nimg:
            self._prepare(nimg)
        batch, copied = self._coming[1].result()
        self._prepare(nimg + self._train.batch)
        if copied:
            now = torch.cuda.current_stream()
            now.wait_event(copied)
            batch.images.record_stream(now)
        return batch

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        if self._stream:
            self._stream.close()

    def _prepare(self, nimg: int) -> None:
        self._coming = nimg, self._thread.submit(self._prepared, nimg)

    def _prepared(self, nimg: int) -> tuple[Batch, "torch.cuda.Event | None"]:
        data, t = self._data, self._train
        index = data.shards.place("train", data.shards.order(t.seed, nimg, t.batch, data.window)[_mine()])
        images, labels = self._next(nimg, index)
        batch = Batch(images, labels, torch.from_numpy(index), _epochs(data.shards.train_rows, nimg, t.batch))
        if self._side is None:
            return batch, None
        with torch.cuda.stream(self._side):  # beside the step that runs meanwhile
            batch = batch._replace(images=images.pin_memory().to(self._device, non_blocking=True))
            return batch, self._side.record_event()

    def _next(self, nimg: int, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        first, every = world().process_index + nimg, world().num_processes
        try:
            complete = self._data.cache.complete()
        except OSError as error:
            log.warning("what was decoded could not be kept for other runs: %s", error)
            self._data.cache.close()
            complete = False
        if self._stream and (complete or self._stream.seen != first):
            self._stream.close()  # with its threads and the window that it holds
            self._stream = None
        if complete:
            return self._data.train.images[index], self._data.train.labels[index]
        self._stream = self._stream or Stream(self._data, self._train.seed, first, every)
        return self._stream.next(len(index))


class Stream(contextlib.AbstractContextManager):
    """Images number `start`, `start + stride`, … of a set's endless order. Its threads end with `close`, or with its context."""

    def __init__(self, data: Streamed, seed: int, start=0, stride=1, decoders: int | None = None, ahead=AHEAD):
        quiet()
        self.shards, self.cache, self.window = data.shards, data.cache, data.window
        self.seen = start  # of the whole order: the position of the next image
        self._failed, self._ended = None, threading.Event()
        self._seed, self._start, self._stride = seed, start, stride
        self._ready: queue.SimpleQueue[Future | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead + 1)
        self._decoders = ThreadPoolExecutor(decoders or threads(), "decode")
        self._reader = threading.Thread(target=self._run, daemon=True, name="read shards")
        self._reader.start()

    def next(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next images (n, 3, R, R) uint8 and their labels (n,) int64. Raises DataError."""
        coming: list[Future] = []
        while len(coming) < n:
            if self._ended.is_set() or self._failed:
                raise self._failed or DataError("the stream is closed")
            decoded = self._ready.get()
            if isinstance(decoded, BaseException):
                self._ready.put(decoded)  # for the next call: the reader has ended
                raise decoded
            coming.append(decoded)
            self._room.release()
        # The last first: by then the others are mostly done, and the decoders were not disturbed.
        images = [decoded.result() for decoded in reversed(coming)]
        self.seen += n * self._stride
        return self.cache.stacked(images[::-1])

    def close(self) -> None:
        self._ended.set()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._room.release()
        self._reader.join()
        self._decoders.shutdown()

    def __exit__(self, *_):
        self.close()

    def _run(self) -> None:
        try:
            for row in self._rows():
                self._room.acquire()
                if self._ended.is_set():
                    return
                self._ready.put(self._decoders.submit(self.cache.image, row))
        except BaseException as error:  # `next` raises it
            if not self._ended.is_set():
                self._ready.put(error)

    def _rows(self) -> Iterator[Row]:
        """The rows of this process in order, each let go when it is given."""
        windows = self.shards.at(self._seed, self._start, self.window)
        (now, begin), offset = next(windows), 0
        held = dict.fromkeys(now.rows[begin :: self._stride].tolist())
        filling = self._read(now, held)
        while True:
            mine = now.rows[begin + offset :: self._stride].tolist()
            offset = (begin + offset - len(now.rows)) % self._stride  # of this process's first row in the next window
            now, begin = next(windows)
            coming = dict.fromkeys(now.rows[offset :: self._stride].tolist())
            reading, rows = self._read(now, coming), sum(self.shards.groups[g].rows for g in now.groups)
            # Who begins near the end of a window does not wait for the whole next one.
            pace = max(len(mine), len(coming))
            for i, number in enumerate(mine):
                while held[number] is None:
                    next(filling)
                yield held.pop(number)
                due = rows * (i + 1) // pace - rows * i // pace
                collections.deque(itertools.islice(reading, due), 0)
            collections.deque(filling, 0)
            held, filling = coming, reading

    def _read(self, window: Window, held: dict[int, Row | None]) -> Iterator[None]:
        """Reads the rows of a window into `held`, groups in the order they are needed; decodes held-out rows beside them."""
        needed = dict.fromkeys(map(self.shards.group_of, held))
        for number in [*needed, *(g for g in window.groups if g not in needed)]:
            numbers = self.shards.groups[number].numbers
            tests = {n for n in numbers if self._my_test(n)}
            if tests or not held.keys().isdisjoint(numbers):
                for row in self.shards.read(number):
                    if self._ended.is_set():
                        return
                    if row.number in held:
                        held[row.number] = row
                    elif row.number in tests:
                        self._decoders.submit(self.cache.image, row).add_done_callback(self._heed)
                    yield

    def _heed(self, decoded: Future) -> None:
        """Nobody waits for a held-out row: what went wrong with it is raised with the next images."""
        self._failed = self._failed or (None if decoded.cancelled() else decoded.exception())

    def _my_test(self, row: int) -> bool:
        """A check for held-out rows that this process has to decode, and has not kept yet."""
        mine = self.shards.held_out(row) and (row // HELD - self._start) % self._stride == 0
        return mine and self.cache.keeps and self.cache.lacks(row)


def _mine() -> slice:
    """The places in a batch of this process's images."""
    return slice(world().process_index, None, world().num_processes)


def _epochs(n: int, nimg: int, batch: int) -> torch.Tensor:
    """In which epoch of n images each of this process's share of a batch is seen, (b,)."""
    return (torch.arange(nimg, nimg + batch) // n)[_mine()]

"""Images decoded while training goes on: in the order of the shards, in bounded memory, from any image on.

One thread reads row groups, several decode, a bounded queue keeps them from running ahead. Reading the next window keeps pace
with using up this one, row by row, so that one window is held and no group is waited for.
"""

import collections
import itertools
import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from guidebook.config.datasets import DataError, allow
from guidebook.data.decode import BadImage, decode_in_thread, progressive, quiet
from guidebook.data.decoded import PROGRESSIVE, REPLACED, WHOLE, Filling
from guidebook.data.shards import HELD, Row, Shards, Window, held_out

log = logging.getLogger(__name__)


class Stream:
    """Images number `start`, `start + stride`, … of the endless order of (shards, seed, window).

    Close it, or use it as a context: its threads end with it.
    """

    def __init__(
        self,
        shards: Shards,
        resolution: int,  # of the square images it gives
        seed: int,
        window: int,  # rows that are mixed, and held
        start: int,  # images seen
        stride: int,  # processes that share the order
        threads: int,  # that decode
        ahead: int,  # images decoded before they are asked for, at most one more
        bad_share: float,  # of the rows, that may be skipped
        bad: dict[int, str],  # row: what is wrong with it; filled here
        keep: Filling | None = None,  # gets what is decoded, and the held-out rows besides
    ):
        quiet()
        self.shards, self.resolution, self.bad_share, self.bad = shards, resolution, bad_share, bad
        self.seen = start  # of the whole order: the position of the next image
        self._failed: BaseException | None = None
        self._order, self._keep = (seed, window, start, stride), keep
        self._ready: queue.Queue[Future | BaseException] = queue.Queue(ahead)
        self._ended = threading.Event()
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._reader = threading.Thread(target=self._run, daemon=True, name="read shards")
        self._reader.start()

    def next(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next images (n, 3, R, R) uint8 and their labels (n,) int64. Raises DataError."""
        asked: list[Future] = []
        while len(asked) < n:
            if self._ended.is_set() or self._failed:
                raise self._failed or DataError("the stream is closed")
            found = self._ready.get()
            if isinstance(found, BaseException):
                self._ready.put(found)  # for whoever asks again: the reader has ended
                raise found
            asked.append(found)
        images, labels = np.empty((n, 3, self.resolution, self.resolution), np.uint8), np.empty(n, np.int64)
        # The last first: by then the others are mostly done, and the decoders were not disturbed.
        for i in reversed(range(n)):
            images[i], labels[i] = asked.pop().result()
        self.seen += n * self._order[3]
        return torch.from_numpy(images), torch.from_numpy(labels)

    def close(self) -> None:
        self._ended.set()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        while self._reader.is_alive():
            with self._ready.mutex:
                self._ready.queue.clear()
                self._ready.not_full.notify()
            self._reader.join(0.01)
        self._decoders.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _run(self) -> None:
        try:
            for row in self._rows():
                if self._ended.is_set():
                    return
                self._ready.put(self._decoders.submit(self._decoded, row))
        except BaseException as error:  # the reader has nobody to tell but whoever asks next
            if not self._ended.is_set():
                self._ready.put(error)

    def _rows(self) -> Iterator[Row]:
        """The rows of this process in order, each let go when it is given."""
        seed, window, start, stride = self._order
        windows = self.shards.at(seed, start, window)
        (now, begin), offset = next(windows), 0
        held = dict.fromkeys(now.rows[begin::stride].tolist())
        filling = self._read(now, held)
        while True:
            mine = now.rows[begin + offset :: stride].tolist()
            offset = (begin + offset - len(now.rows)) % stride  # of the next window's rows, the first of this process
            now, begin = next(windows)
            coming = dict.fromkeys(now.rows[offset::stride].tolist())
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
        """Puts the rows of a window that are waited for into `held`, row by row; the groups in the order they are needed."""
        needed = dict.fromkeys(map(self.shards.group_of, held))
        for number in [*needed, *(g for g in window.groups if g not in needed)]:
            g = self.shards.groups[number]
            numbers = range(g.first, g.first + g.rows)
            tests = {n for n in numbers if self._keep and held_out(n) and self._my_test(n)}
            if tests or not held.keys().isdisjoint(numbers):
                for row in self.shards.read(number):
                    if self._ended.is_set():
                        return
                    if row.number in held:
                        held[row.number] = row
                    elif row.number in tests:
                        self._decoders.submit(self._decoded, row).add_done_callback(self._heed)
                    yield

    def _heed(self, decoded: Future) -> None:
        """Nobody asks for a held-out row: what went wrong with it is told to whoever asks for the next images."""
        if not decoded.cancelled() and (error := decoded.exception()):
            self._failed = error

    def _my_test(self, number: int) -> bool:
        """Whether a held-out row is for this process to decode, and is not decoded yet."""
        _, _, start, stride = self._order
        return (number // HELD - start) % stride == 0 and self._keep.lacks(number)

    def _decoded(self, row: Row) -> tuple[np.ndarray, int]:
        """Pixels (3, R, R) and label of a row; in the place of a bad one stands the next whole one of its split."""
        if self._keep and not self._keep.lacks(row.number):
            return self._keep.get(row.number)
        for candidate in itertools.chain([row], self._following(row.number)):
            pixels = self._try(candidate)
            if pixels is not None:
                if self._keep:
                    state = REPLACED if candidate is not row else PROGRESSIVE if progressive(row.raw) else WHOLE
                    self._keep.put(row.number, pixels, candidate.label, state)
                return pixels, candidate.label
        raise DataError("no row of the shards can be read")

    def _following(self, number: int) -> Iterator[Row]:
        group = self.shards.group_of(number)
        for i in range(len(self.shards.groups) + 1):
            for row in self.shards.read((group + i) % len(self.shards.groups)):
                if (i or row.number > number) and held_out(row.number) == held_out(number):
                    yield row

    def _try(self, row: Row) -> np.ndarray | None:
        try:
            return decode_in_thread(row.raw, 3, self.resolution)
        except BadImage as error:
            if row.number not in self.bad:
                self.bad[row.number] = f"{self.shards.name(row.number)}: {error}"
                log.warning("%s is skipped", self.bad[row.number])
            # What others decoded counts too: how many may be bad is a matter of the whole set.
            n = self._keep.replaced() + sum(map(self._keep.lacks, tuple(self.bad))) if self._keep else len(self.bad)
            allow(list(self.bad.values()), n, self.shards.rows, self.bad_share, "shards")
            return None

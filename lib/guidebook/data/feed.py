"""Where a training's batches come from: the device's memory, or a stream that prepares the next one during the step."""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from guidebook.config.schema import Train
from guidebook.data.decoded import Filling
from guidebook.data.images import order
from guidebook.data.split import Images, Split
from guidebook.data.streamed import Streamed
from guidebook.runtime.distributed import world

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """This process's share of a batch: n images."""

    images: torch.Tensor  # (n, C, H, W) uint8, on the device
    labels: torch.Tensor  # (n,) int64, on the CPU
    index: (
        torch.Tensor | None
    )  # (n,) which images of the training split; None of a stream, where captions are of classes
    epoch: torch.Tensor | None  # (n,) in which each is seen


def feed(data: Images | Streamed, train: Train) -> "Resident | Ahead":
    """What gives this process its share of every batch."""
    return Ahead(data, train) if isinstance(data, Streamed) else Resident(data.train, train)


class Resident:
    """Images that lie in the device's memory."""

    def __init__(self, split: Split, train: Train):
        device = world().device
        self.images, self.labels, self._train = split.images.to(device), split.labels, train

    def batch(self, nimg: int) -> Batch:
        """This process's share of the batch after `nimg` images."""
        n, batch = len(self.labels), self._train.batch
        index = order(n, self._train.seed, nimg, batch)[_mine()]
        epoch = (torch.arange(nimg, nimg + batch) // n)[_mine()]
        return Batch(self.images[index.to(self.images.device, non_blocking=True)], self.labels[index], index, epoch)

    def close(self) -> None: ...


class Ahead:
    """Images that are streamed: the first epoch decodes them and keeps what it decoded, later ones find it."""

    def __init__(self, data: Streamed, train: Train):
        self._data, self._train, self._device = data, train, world().device
        self._decoded, self._filling, self._stream = data.found(), None, None
        self._thread = ThreadPoolExecutor(1, "next batch")
        self._coming: tuple[int, Future] | None = None
        self._side = torch.cuda.Stream() if self._device.type == "cuda" else None
        if self._decoded is None:
            if world().num_processes > int(os.environ.get("LOCAL_WORLD_SIZE", world().num_processes)):
                log.warning(
                    "every epoch decodes its images anew, for each of several machines sees only some of them: "
                    "`guidebook fetch EXPERIMENT --decode` before the training decodes them once"
                )
                return
            try:
                self._filling = Filling(data.folder, data.shards, data.resolution)
            except OSError as error:
                log.warning("every epoch decodes its images anew: %s", error)

    def batch(self, nimg: int) -> Batch:
        """This process's share of the batch after `nimg` images. Raises DataError."""
        if self._coming is None or self._coming[0] != nimg:
            self._ask(nimg)
        images, labels, copied = self._coming[1].result()
        self._ask(nimg + self._train.batch)
        if copied:
            now = torch.cuda.current_stream()
            now.wait_event(copied)
            images.record_stream(now)
        return Batch(images, labels, None, None)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        if self._stream:
            self._stream.close()

    def _ask(self, nimg: int) -> None:
        self._coming = nimg, self._thread.submit(self._prepared, nimg)

    def _prepared(self, nimg: int) -> tuple[torch.Tensor, torch.Tensor, "torch.cuda.Event | None"]:
        images, labels = self._next(nimg)
        if self._side is None:
            return images, labels, None
        with torch.cuda.stream(self._side):  # beside the step that runs meanwhile
            images = images.pin_memory().to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        return images, labels, copied

    def _next(self, nimg: int) -> tuple[torch.Tensor, torch.Tensor]:
        data, seed, n = self._data, self._train.seed, self._train.batch
        if self._filling:
            try:
                self._decoded = self._filling.done()
            except OSError as error:
                log.warning("what was decoded could not be kept for other runs: %s", error)
                self._filling = None
        if self._decoded:
            if self._stream:  # with its threads and the window that it holds
                self._stream.close()
            self._filling = self._stream = None
            rows = data.shards.order(seed, nimg, n, data.window)[_mine()]
            return self._decoded.images(rows), torch.from_numpy(np.take(self._decoded.labels, rows))
        first, every = nimg + world().process_index, world().num_processes
        if self._stream is None or self._stream.seen != first:
            if self._stream:
                self._stream.close()
            self._stream = data.stream(seed, first, every, self._filling)
        return self._stream.next(n // every)


def _mine() -> slice:
    """Which images of a batch are this process's."""
    return slice(world().process_index, None, world().num_processes)

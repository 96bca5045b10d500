"""Processes that share the work of one run: the rank of this one, and sums, flags and rows over all of them.

`torchrun`, `accelerate launch`, `guidebook.runs.launch` and `srun` all end here. Every process runs the same code on its share; the
main one writes. What only reads a record imports this module too: torch is imported where processes first speak.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

TIMEOUT = timedelta(hours=2)  # the others wait so long while the main process writes or trains a judge


@functools.cache
def world() -> "PartialState":
    """This process among those that work together: `process_index`, `num_processes`, `is_main_process`, `device`."""
    import torch
    from accelerate import PartialState

    cuda = torch.cuda.is_available()
    if (size := int(os.environ.get("WORLD_SIZE", 1))) > 1 and not torch.distributed.is_initialized():
        # A file where the processes share a machine: then nothing listens beyond it.
        where = os.environ.get("GUIDEBOOK_STORE", "env://")
        rank, backend = int(os.environ["RANK"]), "cuda:nccl,cpu:gloo" if cuda else "gloo"
        torch.distributed.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=TIMEOUT)
    return PartialState(cpu=not cuda)


_solo = False


@contextmanager
def solo() -> Iterator[None]:
    """While it is open, this process acts as if it were the only one: the main process makes what the others wait for."""
    global _solo
    before, _solo = _solo, True
    try:
        yield
    finally:
        _solo = before


def alone() -> bool:
    return _solo or world().num_processes == 1


def shared(model: "torch.nn.Module") -> "torch.nn.Module":
    """The model with gradients averaged over all processes."""
    import torch

    if alone():
        return model
    devices = [world().device] if world().device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def total(x: "torch.Tensor") -> "torch.Tensor":
    """The sum over all processes of a tensor of one shape."""
    from accelerate.utils import reduce

    return x if alone() else reduce(x, "sum")


def agreed(flag: bool) -> bool:
    """True everywhere if it is true anywhere. Speaks through the CPU, so that no device is waited for."""
    import torch

    return flag if alone() else bool(total(torch.tensor(int(flag))))


def barrier() -> None:
    """Returns when every process is here. Through the CPU too: a task of SLURM may see one device only."""
    agreed(False)


def share(n: int) -> slice:
    """This process's consecutive share of `n` things."""
    k, size = (0, 1) if alone() else (world().process_index, world().num_processes)
    return slice(n * k // size, n * (k + 1) // size)


def gathered(x: "torch.Tensor") -> "torch.Tensor":
    """The shares (n_k, …) of all processes in order, (Σ n_k, …), on the CPU."""
    import torch
    from accelerate.utils import gather_object

    return x.cpu() if alone() else torch.cat(gather_object([x.cpu()]))

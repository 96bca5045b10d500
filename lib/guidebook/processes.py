"""Many processes at one run: who this one is, and what they tell each other.

One process, `torchrun`, `accelerate launch`, `pool.py` and `srun` all end here. Every process runs the same code on its share;
the main one writes.
"""

import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=2)  # the others wait so long while the main process writes or trains a judge


@functools.cache
def world() -> PartialState:
    """This process among those that work together: `process_index`, `num_processes`, `is_main_process`, `device`."""
    cuda = torch.cuda.is_available()
    if (size := int(os.environ.get("WORLD_SIZE", 1))) > 1 and not dist.is_initialized():
        # A file where the processes share a machine: then nothing listens beyond it.
        where = os.environ.get("GUIDEBOOK_STORE", "env://")
        rank, backend = int(os.environ["RANK"]), "cuda:nccl,cpu:gloo" if cuda else "gloo"
        dist.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=PATIENCE)
    return PartialState(cpu=not cuda)


def alone() -> bool:
    return world().num_processes == 1


def shared(model: torch.nn.Module) -> torch.nn.Module:
    """The model with gradients averaged over all processes."""
    if alone():
        return model
    device = world().device
    return DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes of a tensor of one shape."""
    if alone():
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def agreed(flag: bool) -> bool:
    """True everywhere if it is true anywhere. Speaks through the CPU, so that no device is waited for."""
    if alone():
        return flag
    told = torch.tensor(int(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def barrier() -> None:
    """Returns when every process is here. Through the CPU too: a task of SLURM may see one device only."""
    agreed(False)


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Processes that are started meanwhile keep the memory of tensors for the next ones, and take it in pages of 2 MB where Linux lets
    them; what the environment says about it already stands.

    On a CPU giving memory back and taking it anew costs every step of a training time, and every image that is decoded: a page at a time.
    It has to be entered before threads are started that enter it too.
    """
    library, version = platform.libc_ver()
    modern = library == "glibc" and [int(n) for n in version.split(".")[:2]] >= [2, 35]
    kept = str(2**30 if modern else 2**25)  # before, 32 MiB is the most it takes
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    pages = "" if not modern or "glibc.malloc.hugetlb" in tunables else "glibc.malloc.hugetlb=1"
    wanted = {
        "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", kept),
        "MALLOC_TRIM_THRESHOLD_": os.environ.get("MALLOC_TRIM_THRESHOLD_", kept),
        "GLIBC_TUNABLES": ":".join(filter(None, (tunables, pages))),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through this block before the others: it makes what they find."""
    if not world().is_main_process:
        barrier()
    yield
    if world().is_main_process:
        barrier()


def share(n: int) -> slice:
    """This process's consecutive share of `n` things."""
    k, size = world().process_index, world().num_processes
    return slice(n * k // size, n * (k + 1) // size)


def gathered(x: torch.Tensor) -> torch.Tensor:
    """The shares (n_k, …) of all processes in order, (Σ n_k, …), on the CPU."""
    if alone():
        return x.cpu()
    parts = [None] * world().num_processes
    dist.all_gather_object(parts, x.cpu())
    return torch.cat(parts)

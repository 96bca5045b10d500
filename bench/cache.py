"""How the building of a cache of latents scales with the processes that share it, as tasks of an array do: none talks to another."""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench import measuring
from bench.apart import apart
from guidebook.config import params as P
from guidebook.models import latents
from guidebook.models.autoencoder import Autoencoder
from guidebook.models.small_vae import build
from guidebook.runs.artifact import intact
from guidebook.runtime.malloc import keeping_memory
from guidebook.training.loop import cpu_name

SIDE, PARTS = 32, 2  # pixels across; parts for each of the largest number of processes
LATE = 300  # seconds that processes wait for each other


def cache(say: Callable[[str], None], part: int = latents.PART, repeats: int = 3) -> dict:
    """Images per second by one process and by 2, and 4, 8 and 16 where there are so many cores; each process has one thread.

    A part of what they share is of so many pixels. The networks run on the CPU, whatever else there is.
    """
    cores = len(os.sched_getaffinity(0))
    many = [n for n in (1, 2, 4, 8, 16) if n <= max(2, cores)]
    images = PARTS * many[-1] * part // SIDE**2
    turns = {
        (n, shared): lambda n=n, shared=shared: _together(n, images, part, shared)
        for n in many
        for shared in (True, False)
    }
    del turns[1, False]
    found = measuring.alternate(turns, repeats)
    rows = [
        {"name": _name(n, shared), "speed": measuring.spread(speeds), "images": images}
        for (n, shared), speeds in found.items()
    ]
    ratios = []
    for n in many[1:]:
        told = f"{n} processes / 1, of one thread each, on {cores} cores"
        ratios.append(measuring.ratio("building one cache", found[n, True], found[1, True], told))
        told = f"{n} processes share one cache / build one each: what sharing leaves of the machine's speed"
        ratios.append(measuring.ratio("sharing", found[n, True], found[n, False], told))
    report = measuring.report("cache", P.load("celeba", "demo"), rows, ratios, device=cpu_name(), kind="cpu", cores=1)
    measuring.tell(say, report)
    return report


def _name(n: int, shared: bool) -> str:
    return f"{n} processes, {'one cache' if shared else 'a cache each'}" if n > 1 else "1 process"


def _together(n: int, images: int, part: int, shared: bool) -> float:
    """Images per second of n processes that begin at the same time, until the last of them is done."""
    with tempfile.TemporaryDirectory() as folder, keeping_memory(), ThreadPoolExecutor(n) as threads:
        works = [
            (folder, k, n, (k, n) if shared else (0, 1), images if shared else images // n, part) for k in range(n)
        ]
        told = [work.result() for work in [threads.submit(apart, _share, *work, watched=False) for work in works]]
    if sum(t["whole"] for t in told) < (1 if shared else n):
        raise RuntimeError(f"of {n} processes too few found their cache whole when they ended")
    return images / (max(t["ended"] for t in told) - min(t["began"] for t in told))


def _share(folder: str, k: int, n: int, share: tuple[int, int], images: int, part: int) -> dict:
    torch.set_num_threads(1)
    latents.PART = part
    os.environ["GUIDEBOOK_RUNS"] = folder if share[1] == n else f"{folder}/{k}"
    torch.manual_seed(0)
    vae = Autoencoder(build(SIDE).eval().requires_grad_(False), "random")
    pictures = torch.randint(0, 256, (images, 3, SIDE, SIDE), dtype=torch.uint8)
    vae.encode(pictures[:64])
    (Path(folder) / f"ready-{k}").touch()
    late = time.monotonic() + LATE
    while len(list(Path(folder).glob("ready-*"))) < n:
        if time.monotonic() > late:
            raise TimeoutError(f"{n} processes were to begin together, and not all of them came within {LATE} s")
        time.sleep(0.001)
    began = time.monotonic()  # one clock for all processes of a machine
    whole = intact(latents.encoded(vae, pictures, "bench", False, share=share))
    return {"began": began, "ended": time.monotonic(), "whole": whole}

"""How the building of a cache of latents scales with the processes that share it, as tasks of an array do: none talks to another."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench import measuring
from bench.apart import apart
from guidebook.config.params import Params
from guidebook.models import latents
from guidebook.models.autoencoder import Autoencoder
from guidebook.models.small_vae import build
from guidebook.runs.manifest import intact
from guidebook.runtime.malloc import keeping_memory
from guidebook.training.provenance import cpu_name

SIDE, PARTS = 32, 2  # pixels across; parts for each of the largest number of processes
LATE = 300  # seconds that processes wait for each other


def cache(params: Params, part: int = latents.PART, repeats: int = 3) -> dict:
    """Images per second by one process and by 2, and 4, 8 and 16 where there are so many cores; each process has one thread.

    A part of what they share is of so many pixels. The networks run on the CPU, whatever else there is.
    """
    cores = len(os.sched_getaffinity(0))
    many = [n for n in (1, 2, 4, 8, 16) if n <= max(2, cores)]
    images = PARTS * many[-1] * part // SIDE**2
    works = [(1, True), *((n, shared) for n in many[1:] for shared in (True, False))]
    turns = {work: lambda work=work: _together(*work, images, part) for work in works}
    speeds = measuring.alternate(turns, repeats)
    rows = [{"name": _name(*w), "speed": measuring.spread(s), "images": images} for w, s in speeds.items()]
    alone = "what sharing leaves of the machine's speed"
    ratios = []
    for n in many[1:]:
        shared, each = speeds[n, True], speeds[n, False]
        one = f"{n} processes / 1, of one thread each, on {cores} cores"
        ratios.append(measuring.ratio("building one cache", shared, speeds[1, True], one))
        ratios.append(
            measuring.ratio("sharing", shared, each, f"{n} processes share one cache / build one each: {alone}")
        )
    return measuring.report("cache", params, rows, ratios, device=cpu_name(), kind="cpu", cores=1)


def _name(n: int, shared: bool) -> str:
    return f"{n} processes, {'one cache' if shared else 'a cache each'}" if n > 1 else "1 process"


def _together(n: int, shared: bool, images: int, part: int) -> float:
    """Images per second of n processes that begin at the same time, until the last of them is done."""
    some = (n, images) if shared else (1, images // n)
    with tempfile.TemporaryDirectory() as folder, keeping_memory(), ThreadPoolExecutor(n) as threads:
        works = [threads.submit(apart, _share, folder, k, n, *some, part, watched=False) for k in range(n)]
        told = [work.result() for work in works]
    if sum(t["whole"] for t in told) < (1 if shared else n):
        raise RuntimeError(f"of {n} processes too few found their cache complete when they ended")
    return images / (max(t["ended"] for t in told) - min(t["began"] for t in told))


def _share(folder: str, k: int, n: int, sharing: int, images: int, part: int) -> dict:
    torch.set_num_threads(1)
    latents.PART = part
    os.environ["GUIDEBOOK_RUNS"] = folder if sharing == n else f"{folder}/{k}"
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
    share = (k, n) if sharing == n else (0, 1)
    whole = intact(latents.encoded(vae, pictures, "bench", False, share=share))
    return {"began": began, "ended": time.monotonic(), "whole": whole}

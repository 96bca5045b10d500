"""How the building of a cache of latents scales with the processes that share it, as tasks of an array do: none talks to another."""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from guidebook import params as P
from guidebook.bench import measuring
from guidebook.bench.apart import apart
from guidebook.data.latents import PART, encoded
from guidebook.models.small_vae import build
from guidebook.models.vae import Autoencoder

SIDE = 32
PARTS = 2  # of the largest number of processes, each


def cache(say: Callable[[str], None], side: int = SIDE, images: int | None = None, repeats: int = 3) -> dict:
    """Images per second by one process and by 2, 4, … up to the cores of this machine; each process has one thread."""
    cores = os.cpu_count()
    many = [n for n in (1, 2, 4, 8, 16) if n <= max(2, cores)]
    images = images or PARTS * many[-1] * PART // side**2
    found = measuring.alternate({str(n): lambda n=n: _together(n, images, side) for n in many}, repeats)
    rows = [
        {"name": f"{n} process{'es' if n > 1 else ''}", "speed": measuring.spread(found[str(n)]), "images": images}
        for n in many
    ]
    ratios = [
        measuring.ratio("building the cache", found[str(n)], found["1"], f"{n} processes / 1, of one thread each")
        for n in many[1:]
    ]
    report = measuring.report("cache", P.load("celeba", "demo"), rows, ratios, machine_cores=cores)
    measuring.tell(say, report)
    return report


def _together(n: int, images: int, side: int) -> float:
    """Images per second of n processes that begin at the same time, until the last of them is done."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(n) as threads:
        shares = [threads.submit(apart, _share, folder, k, n, images, side, watched=False) for k in range(n)]
        told = [share.result() for share in shares]
    if not any(t["whole"] for t in told):
        raise RuntimeError(f"none of {n} processes found the cache whole when it ended")
    return images / (max(t["ended"] for t in told) - min(t["began"] for t in told))


def _share(folder: str, k: int, n: int, images: int, side: int) -> dict:
    torch.set_num_threads(1)
    os.environ["GUIDEBOOK_RUNS"] = folder
    torch.manual_seed(0)
    vae = Autoencoder(build(side).eval().requires_grad_(False), "random")
    pictures = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    vae.encode(pictures[:64])
    (Path(folder) / f"ready-{k}").touch()
    while len(list(Path(folder).glob("ready-*"))) < n:
        time.sleep(0.001)
    began = time.monotonic()  # one clock for all processes of a machine
    whole = encoded(vae, pictures, "bench", False, share=(k, n)) is not None
    return {"began": began, "ended": time.monotonic(), "whole": whole}

"""What the library costs and what it saves: measured on the machine at hand, as ratios within one run.

`loop` and `checkpoint` are the library's own cost; `train`, `sample` and `quality` compare it with what diffusers' examples and
pipelines do, `loader` compares ways to load images, `batch` sizes of a batch, `latents` ways to train in latents and pixels,
`cache` how many build the latents, and these write `book/results/bench/<name>-<experiment>-<profile>-<device>.json`, from which the book's page is drawn.
"""

from bench.batch import batch
from bench.cache import cache
from bench.checkpoint import checkpoint
from bench.latents import latents
from bench.loader import loader
from bench.loop import loop
from bench.quality import quality
from bench.sample import sample
from bench.train import train

BENCHES = {
    "loop": loop,
    "checkpoint": checkpoint,
    "train": train,
    "sample": sample,
    "quality": quality,
    "loader": loader,
    "batch": batch,
    "latents": latents,
    "cache": cache,
}

__all__ = ["BENCHES", "batch", "cache", "checkpoint", "latents", "loader", "loop", "quality", "sample", "train"]

"""The judge: a small classifier of the real images, trained on the train split and tested on the test split.

Its reading of a sample against the caption is adherence; its last hidden layer is the feature space of `fd_judge`.
"""

import functools
import itertools
import json
import os
import shutil
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from guidebook.data.images import Images, load, order
from guidebook.metrics.intervals import Interval, wilson
from guidebook.params import Data, digest
from guidebook.paths import runs
from guidebook.rng import generator, seed_of
from guidebook.seal import seal, verify, writing

VERSION, BATCH, LR, SEED, FEATURES = 1, 128, 2e-3, 0, 64
STEPS = {8: 900, 28: 1400}  # optimiser steps by resolution


@dataclass(frozen=True)
class Judge:
    network: nn.Module
    name: str  # for the `extractor` field of metric records
    accuracy: Interval  # on the test split
    n: int

    @torch.no_grad()
    def read(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes (N,) int64 and features (N, 64) float32 of images (N, C, H, W) uint8."""
        device = next(self.network.parameters()).device
        parts = [self.network(part.to(device)) for part in images.split(1000)]
        logits, features = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        return logits.argmax(1), features


class Network(nn.Module):
    def __init__(self, channels: int, resolution: int, classes: int):
        super().__init__()
        pools = 1 if resolution < 16 else 2
        widths = [channels, 32, *[64] * pools]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.hidden = nn.Linear(64 * (resolution // 2**pools) ** 2, FEATURES)
        self.out = nn.Linear(FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, K) and features (N, 64) of pixels (N, C, H, W) in 0 … 255."""
        x = pixels.float() / 127.5 - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(convolution(x)))
            x = F.max_pool2d(x, 2) if i else x
        features = self.hidden(F.dropout(x.flatten(1), 0.3, self.training))
        return self.out(F.relu(features)), features


@functools.lru_cache(maxsize=2)
def judge(data: Data) -> Judge:
    """The judge of a data set: found among the runs, else trained (seconds for digits, a minute for MNIST)."""
    images = load(data)
    key = digest([VERSION, images.fingerprint, BATCH, LR, SEED, STEPS])
    folder = runs() / "judges" / f"{data.name}-{key}"
    with torch.random.fork_rng(devices=[]):
        network = Network(images.train.images.shape[1], data.resolution, len(images.classes))
    if not folder.is_dir():
        _train(network, images)
        right = int((Judge(network, "", (0, 0, 0), 0).read(images.test.images)[0] == images.test.labels).sum())
        aside = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        with writing(aside, f"the judge {folder.name}"):
            aside.mkdir(parents=True)
            save_file(network.state_dict(), aside / "model.safetensors")
            (aside / "judge.json").write_text(json.dumps({"right": right, "n": len(images.test), "data": data.name}))
            seal(aside)
        try:
            os.replace(aside, folder)
        except OSError:  # another process was faster; the two are equal
            shutil.rmtree(aside)
    verify(folder, f"delete {folder} and run again: it is trained anew")
    network.load_state_dict(load_file(folder / "model.safetensors"))
    facts = json.loads((folder / "judge.json").read_text())
    return Judge(network.eval(), f"judge-{data.name}-{key}", wilson(facts["right"], facts["n"]), facts["n"])


def _train(network: Network, images: Images) -> None:
    """AdamW with a cosine to zero; images shifted by up to a tenth of their width, differently in every epoch."""
    steps = STEPS.get(images.train.images.shape[-1], 2000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("judge", SEED))
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        optimizer = torch.optim.AdamW(network.train().parameters(), lr=LR, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in tqdm(range(steps), desc="judge", unit="step", mininterval=1):
            index = order(len(images.train), SEED, step * BATCH, BATCH)
            pixels = _shift(images.train.images[index], step)
            F.cross_entropy(network(pixels)[0], images.train.labels[index]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    network.eval()


def _shift(pixels: torch.Tensor, step: int) -> torch.Tensor:
    """The whole batch moved by one random offset, edges repeated."""
    reach = max(1, pixels.shape[-1] // 10)
    dy, dx = torch.randint(0, 2 * reach + 1, (2,), generator=generator("shift", step)).tolist()
    padded = F.pad(pixels.float(), [reach] * 4, mode="replicate")
    return padded[..., dy : dy + pixels.shape[-2], dx : dx + pixels.shape[-1]]

"""A classifier of noisy images, which classifier guidance follows: p(class | x_t), trained on what a diffusion model sees."""

import functools
import itertools
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from guidebook.config.params import Params
from guidebook.config.paths import runs
from guidebook.config.schema import Data
from guidebook.data.images import Split, from_uint8, load
from guidebook.data.order import order
from guidebook.diffusion.objective import Objective, objective
from guidebook.runs.artifact import artifact
from guidebook.runs.fit import fit, state_of
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import exact
from guidebook.runtime.seeds import generator, seed_of

STEPS, BATCH, LR, SEED, WIDTH, TIME = 800, 128, 2e-3, 0, 64, 128


class NoisyClassifier(nn.Module):
    """p(class | x_t) for images of 4 to 64 pixels and more: halved to 8 or fewer, and once more."""

    accuracy: list[dict]  # on noisy test images: `right` of `n` between the shares `from` and `to` of the timesteps

    def __init__(self, channels: int, resolution: int, classes: int):
        super().__init__()
        halvings = max(1, (resolution - 1).bit_length() - 3)
        self.time = nn.Sequential(nn.Linear(TIME, TIME), nn.SiLU(), nn.Linear(TIME, TIME))
        self.stem = nn.Conv2d(channels, WIDTH // 2, 3, padding=1)
        widths = [WIDTH // 2, WIDTH // 2, *[WIDTH] * halvings]
        from diffusers.models.resnet import ResnetBlock2D

        block = functools.partial(ResnetBlock2D, temb_channels=TIME, groups=8)
        self.blocks = nn.ModuleList(block(in_channels=a, out_channels=b) for a, b in itertools.pairwise(widths))
        self.norm, self.out = nn.GroupNorm(8, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of x_t (B, C, H, W) in the model's range at timesteps t, (B,) or one for all."""
        from diffusers.models.embeddings import get_timestep_embedding

        time = self.time(get_timestep_embedding(t.to(x.device).expand(len(x)), TIME).to(x.dtype))
        h = self.stem(x)
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i or h.shape[-1] > 8 else h, time)
        return self.out(F.silu(self.norm(h)).mean((2, 3)))

    def log_prob(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """log p(labels | x_t) (B,), differentiable in x, for labels (B,) int64."""
        return F.log_softmax(self(x, t), 1).gather(1, labels[:, None])[:, 0]


@functools.lru_cache(maxsize=2)
def noisy_classifier(params: Params) -> NoisyClassifier:
    """That of a run's data and forward process, on this process's device: read among the runs, else trained in half a minute.

    It is trained in fp32 on every device. Which device that was is not in its name: the first one that is trained counts. Every
    process calls it. Raises Preempted.
    """
    data, diffusion, device = params.data, params.objective, world().device
    images = load(data)
    noise = diffusion.model_dump(mode="json", exclude={"prediction", "min_snr_gamma"})
    pixels = [images.fingerprint, data.resolution, data.range, data.flips]
    spec = [STEPS, BATCH, LR, SEED, WIDTH, TIME, pixels, noise]
    place = runs() / "judges", f"noisy-{data.name}", spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("noisy classifier", SEED))
        network = NoisyClassifier(images.train.images.shape[1], data.resolution, len(images.classes)).to(device)

    @exact()
    def make(aside: Path) -> None:
        noisy = functools.partial(_noisy, data=data, forward=objective(diffusion, device), device=device)
        _train(network, images.train, noisy, data.flips, state_of(*place))
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, aside / "model.safetensors")
        facts = {"data": data.name, "noise": noise, "accuracy": _accuracy(network, images.test, noisy)}
        (aside / "classifier.json").write_text(json.dumps(facts))

    folder = artifact(*place, make, what="the noisy classifier")
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.accuracy = json.loads((folder / "classifier.json").read_text())["accuracy"]
    return network.eval().requires_grad_(False)


def _noisy(pixels, low: float, high: float, *what: int | str, data: Data, forward: Objective, device: torch.device):
    """x_t of pixels (B, C, H, W) uint8 and t (B,), from `low` to below `high` of all; by chance, a function of `what`."""
    rng, first, end = generator("noisy classifier", *what), *(int(share * forward.timesteps) for share in (low, high))
    t = torch.randint(first, max(end, first + 1), (len(pixels),), generator=rng)
    parts = from_uint8(pixels, *data.range), torch.randn(pixels.shape, generator=rng), t
    x0, eps, t = (part.to(device) for part in parts)
    return forward.add_noise(x0, eps, t), t


def _train(network: NoisyClassifier, split: Split, noisy, flips: bool, state: Path) -> None:
    """AdamW with a cosine to zero, each image at a timestep of its own, all equally likely."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    images = torch.cat([split.images, split.images.flip(-1)]) if flips else split.images

    def loss(step: int) -> torch.Tensor:
        index = order(len(images), SEED, step * BATCH, BATCH)
        x, t = noisy(images[index], 0, 1, "train", step)
        return F.cross_entropy(network(x, t), split.labels[index % len(split)].to(x.device))

    fit(state, network, optimizer, schedule, STEPS, loss, "noisy classifier")


@torch.no_grad()
def _accuracy(network: NoisyClassifier, split: Split, noisy) -> list[dict]:
    """How many test images are read right, each once in every tenth of the timesteps."""
    bins = []
    for low, high in itertools.pairwise(i / 10 for i in range(11)):
        seen = (noisy(x, low, high, "test", str(low), i) for i, x in enumerate(split.images.split(500)))
        read = torch.cat([network(x, t).argmax(1).cpu() for x, t in seen])
        bins.append({"from": low, "to": high, "right": int((read == split.labels).sum()), "n": len(split)})
    return bins

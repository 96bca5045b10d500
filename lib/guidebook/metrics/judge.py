"""The judge: a classifier of the real images, trained on the train split.

Its reading of a sample against the caption is adherence; its last hidden layer, each feature standardised by the train split, is the
feature space of `fd_judge`, which is no FID and cannot be compared with one.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guidebook.config.datasets import DataError
from guidebook.config.own import NAME
from guidebook.config.params import Data
from guidebook.config.paths import runs
from guidebook.data.images import Split, load, packed
from guidebook.metrics.judge_training import FEATURES, Recipe, shrunk
from guidebook.metrics.networks import Network
from guidebook.runs.artifact import artifact
from guidebook.runs.fit import state_of
from guidebook.runs.manifest import MANIFEST
from guidebook.runtime.distributed import world

FILE = "model.safetensors"


def recipes() -> dict[str, dict[str, Recipe]]:
    """How the judge of each data set is trained, by the kind of device; where a kind has no recipe, the CPU trains.

    Accuracy on one core: 98.6 % of digits in 3 s, 86.6 % of CIFAR-10 in 500 s. The recipe for a GPU has not been run on one yet.
    """
    narrow, small = (32, 64, 128), {"depth": 1, "batch": 128}
    cpu, gpu = ("cpu", (64, 128, 256), 1, 8), ("cuda", (128, 256, 512), 2)
    faces, coloured = {"side": 64, "attributes": True}, {"cpu": Recipe(*cpu), "cuda": Recipe(*gpu, 20)}
    return {
        "digits": {"cpu": Recipe("cpu", (64, 128), epochs=20, shift=1, lr=0.1, mirror=False, **small)},
        "mnist": {"cpu": Recipe("cpu", narrow, epochs=3, shift=2, mirror=False, **small)},
        "scenes": {"cpu": Recipe("cpu", narrow, epochs=8, shift=1, mirror=False, **small)},
        "paintings": {"cpu": Recipe("cpu", narrow, epochs=30, shift=1, **small)},
        "faces": {"cpu": Recipe("cpu", narrow, 1, epochs=12, shift=2, lr=1.0, batch=64, **faces)},
        **dict.fromkeys(("cifar10", "cifar100", "wikiart"), coloured),
        "celeba": {"cpu": Recipe("cpu", narrow, 1, 2, **faces), "cuda": Recipe(*gpu, 10, **faces)},
        NAME: {"cpu": Recipe("cpu", narrow, epochs=20, shift=2, side=32, depth=1, batch=64)},
        "imagenette": {"cpu": Recipe("cpu", narrow, epochs=20, shift=2, side=32, **small)},
        "imagenet100": {"cpu": Recipe(*cpu, side=64), "cuda": Recipe(*gpu, 30, side=64)},
    }


class Judge(Network):
    """Gives `classes`, of a set with attributes in their place the attributes it sees as bits, the `confidence` in them, and `features`."""

    batch = 1000
    gives = (("classes", (), "int64"), ("confidence", (), "float32"), ("features", (FEATURES,), "float32"))

    def __init__(self, network: nn.Module, name: str, recipe: Recipe, mean: torch.Tensor, std: torch.Tensor):
        self.network, self.name, self.recipe = network, name, recipe
        self.mean, self.std = mean, std  # (64,), of the train split

    def forward(self, images):
        logits, features = self.network(shrunk(images, self.recipe.side))
        if self.recipe.attributes:
            classes, sure = packed(logits > 0), logits.abs().sigmoid().mean(1)
        else:
            sure, classes = logits.softmax(1).max(1)
        return {"classes": classes, "confidence": sure, "features": (features - self.mean) / self.std}


@functools.lru_cache(maxsize=2)
def judge(data: Data) -> Judge:
    """The judge of a data set, trained where there is none, by the recipe for this process's device or else on the CPU.

    Its name holds the first digits of its weights' hash: two machines' judges differ. Every process calls it. Raises Preempted.
    """
    if data.entry.captioned:
        raise DataError("a judge reads classes, and these images have captions of their own: leave out its metrics")
    images, device = load(data), world().device
    part = data.subset or (data.contents and data.entry.attributes)  # whatever its size
    ways = recipes()[(part and data.entry.stand_in) or data.name]
    recipe = ways.get(device.type, ways["cpu"])
    if data.contents and not recipe.attributes:  # some hundred steps for the fewest images
        recipe = replace(recipe, epochs=max(recipe.epochs, 20_000 // len(images.train)))
    network = recipe.build(images.train.images.shape[1], len(images.classes))
    place = runs() / "judges", f"judge-{data.name}", [images.fingerprint, recipe, recipe.bf16]

    def make(aside: Path) -> None:
        train = Split(shrunk(images.train.images, recipe.side), images.train.labels)
        recipe.train(network, train, state_of(*place))
        plain = Judge(network.to(device), "", recipe, *torch.tensor([[0.0], [1.0]], device=device))
        std, mean = torch.std_mean(plain.read(train.images)["features"].double(), 0)
        scale = {"mean": mean.float(), "std": std.clamp(min=1e-6).float()}  # a constant feature stays 0
        weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
        save_file(weights | scale, aside / FILE)

    folder = artifact(*place, make, what=f"the judge of {data.name}")
    weights = load_file(folder / FILE)
    scale = [weights.pop(k).to(device) for k in ("mean", "std")]
    network.load_state_dict(weights)
    name = f"judge-{data.name}-{json.loads((folder / MANIFEST).read_text())[FILE][:8]}"
    return Judge(network.eval().to(device), name, recipe, *scale)

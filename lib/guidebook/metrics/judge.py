"""The judge: a classifier of the real images, trained on the train split and tested on the test split.

Its reading of a sample against the caption is adherence; its last hidden layer is the feature space of `fd_judge`.
"""

import functools
import json
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guidebook.data.images import load
from guidebook.metrics.classifiers import Residual, Small
from guidebook.metrics.intervals import Interval, wilson
from guidebook.params import Data
from guidebook.paths import runs
from guidebook.precision import exact
from guidebook.processes import world
from guidebook.seal import verify, whole

STEPS = {8: 900, 28: 1400}  # of the judges that recorded runs name, by resolution
PART = 1000  # images read at a time


def recipes() -> dict[str, dict[str, Small | Residual]]:
    """How the judge of each data set is trained, by the kind of device; where a kind has no recipe, the CPU trains.

    Reached on 2,000 unseen scenes: 99.95 % at 16 pixels in 23 core-seconds, 99.7 % at 32 in 134. On the test split of CIFAR-10, as
    JPEG copies: 86.6 % in 500 core-seconds. The recipe for a GPU has not been run on one yet.
    """
    return {
        "digits": {"cpu": Small(STEPS)},
        "mnist": {"cpu": Small(STEPS)},
        "scenes": {"cpu": Small({12: 250, 16: 250, 32: 300})},
        "cifar10": {
            "cpu": Residual("cpu", widths=(64, 128, 256), depth=1, epochs=8, cutout=0),
            "cuda": Residual("cuda", widths=(128, 256, 512), depth=2, epochs=20, cutout=8),
        },
        "paintings": {"cpu": Small({8: 100, 16: 500, 32: 500})},
        "wikiart": {
            "cpu": Residual("cpu", widths=(64, 128, 256), depth=1, epochs=8, cutout=0),
            "cuda": Residual("cuda", widths=(128, 256, 512), depth=2, epochs=20, cutout=32),
        },
    }


@dataclass(frozen=True)
class Judge:
    network: nn.Module
    name: str  # for the `extractor` field of metric records
    accuracy: Interval  # on the test split
    n: int

    @torch.no_grad()
    @exact()
    def read(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes (N,) int64 and features (N, 64) float32, on the CPU, of images (N, C, H, W) uint8."""
        device = next(self.network.parameters()).device
        parts = [self.network(part.to(device)) for part in images.split(PART)]
        logits, features = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        return logits.argmax(1), features


@functools.lru_cache(maxsize=2)
def judge(data: Data) -> Judge:
    """The judge of a data set: found among the runs, else trained; `recipes` says how long that takes.

    It is trained by the recipe for this process's device, or on the CPU by the CPU's, and reads on this device. Its name says the
    data, the recipe and the precision, not the machine: what two machines train under one name differs, and the first one counts.
    """
    images, device = load(data), world().device
    ways = recipes()[data.name]
    kind = device.type if device.type in ways else "cpu"
    key = ways[kind].key(images.fingerprint)
    folder = runs() / "judges" / f"{data.name}-{key}"
    with torch.random.fork_rng(devices=[]):
        network = ways[kind].build(images.train.images.shape[1], data.resolution, len(images.classes))
    if not folder.is_dir():
        ways[kind].train(network, images.train, device if kind == device.type else torch.device("cpu"))
        read = Judge(network, "", (0, 0, 0), 0).read(images.test.images)[0]
        right = int((read == images.test.labels).sum())
        with whole(folder, f"the judge {folder.name}") as aside:
            weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
            save_file(weights, aside / "model.safetensors")
            facts = {"right": right, "n": len(images.test), "data": data.name}
            (aside / "judge.json").write_text(json.dumps(facts))
    verify(folder, f"delete {folder} and run again: it is trained anew")
    network.load_state_dict(load_file(folder / "model.safetensors"))
    facts = json.loads((folder / "judge.json").read_text())
    accuracy = wilson(facts["right"], facts["n"])
    return Judge(network.eval().to(device), f"judge-{data.name}-{key}", accuracy, facts["n"])

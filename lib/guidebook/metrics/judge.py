"""The judge: a classifier of the real images, trained on the train split and tested on the test split.

Its reading of a sample against the caption is adherence; its last hidden layer is the feature space of `fd_judge`.
"""

import functools
import json
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guidebook.config.params import Data
from guidebook.config.paths import runs
from guidebook.data.images import Split, load, packed, unpacked
from guidebook.metrics.classifiers import Residual, Small, shrunk
from guidebook.metrics.intervals import Interval, wilson
from guidebook.runs.manifest import verify, whole
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import exact

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
        "faces": {
            "cpu": Residual(
                "cpu", (32, 64, 128), 1, epochs=12, cutout=0, shift=2, lr=1.0, batch=64, side=64, attributes=True
            )
        },
        "celeba": {
            "cpu": Residual("cpu", widths=(32, 64, 128), depth=1, epochs=2, cutout=0, side=64, attributes=True),
            "cuda": Residual("cuda", widths=(128, 256, 512), depth=2, epochs=10, cutout=16, side=64, attributes=True),
        },
        "imagenet100": {
            "cpu": Residual("cpu", widths=(64, 128, 256), depth=1, epochs=8, cutout=0, side=64),
            "cuda": Residual("cuda", widths=(128, 256, 512), depth=2, epochs=30, cutout=16, side=64),
        },
    }


@dataclass(frozen=True)
class Judge:
    network: nn.Module
    name: str  # for the `extractor` field of metric records
    accuracy: Interval  # on the test split; of attributes, all of them counted
    n: int
    side: int | None = None  # what it reads larger images at
    attributes: bool = False

    @torch.no_grad()
    @exact()
    def read(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes (N,) int64 and features (N, 64) float32, on the CPU, of images (N, C, H, W) uint8.

        Of a set with attributes, in the place of a class the attributes it sees, as bits.
        """
        device = next(self.network.parameters()).device
        parts = [self.network(shrunk(part.to(device), self.side)) for part in images.split(PART)]
        logits, features = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        return packed(logits > 0) if self.attributes else logits.argmax(1), features


@functools.lru_cache(maxsize=2)
def judge(data: Data) -> Judge:
    """The judge of a data set: found among the runs, else trained; `recipes` says how long that takes.

    It is trained by the recipe for this process's device, or on the CPU by the CPU's, and reads on this device. Its name says the
    data, the recipe and the precision, not the machine: what two machines train under one name differs, and the first one counts.
    """
    images, device = load(data), world().device
    ways = recipes()[data.name]
    kind = device.type if device.type in ways else "cpu"
    how = {"side": ways[kind].side, "attributes": ways[kind].attributes}
    key = ways[kind].key(images.fingerprint)
    folder = runs() / "judges" / f"{data.name}-{key}"
    with torch.random.fork_rng(devices=[]):
        side = min(data.resolution, ways[kind].side or data.resolution)
        network = ways[kind].build(images.train.images.shape[1], side, len(images.classes))
    if not folder.is_dir():
        seen = Split(shrunk(images.train.images, side), images.train.labels)
        ways[kind].train(network, seen, device if kind == device.type else torch.device("cpu"))
        read, n = Judge(network, "", (0, 0, 0), 0, **how).read(images.test.images)[0], len(images.test)
        if how["attributes"]:
            k = len(images.classes)
            right, n = int((unpacked(read, k) == unpacked(images.test.labels, k)).sum()), k * n
        else:
            right = int((read == images.test.labels).sum())
        with whole(folder, f"the judge {folder.name}") as aside:
            weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
            save_file(weights, aside / "model.safetensors")
            facts = {"right": right, "n": n, "data": data.name}
            (aside / "judge.json").write_text(json.dumps(facts))
    verify(folder, f"delete {folder} and run again: it is trained anew")
    network.load_state_dict(load_file(folder / "model.safetensors"))
    facts = json.loads((folder / "judge.json").read_text())
    accuracy = wilson(facts["right"], facts["n"])
    return Judge(network.eval().to(device), f"judge-{data.name}-{key}", accuracy, facts["n"], **how)

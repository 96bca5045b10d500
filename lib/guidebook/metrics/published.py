"""The classifier by which the thesis measured prompt adherence on CIFAR-10 (section 3.3.6), as it is described there.

A ResNet-18 with ImageNet's weights, its first convolution and its last layer replaced to fit 32×32 pixels and ten classes, and
nothing trained afterwards. So its last layer is random. Its rows are drawn alike and independently, hence no class is likelier
than another whatever the image shows: over the draws, the expected accuracy on any labelled images is exactly 1 / classes. One
draw may lie above or below, on samples and real images alike; `chance` says how far.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from guidebook.data.images import Split, load
from guidebook.metrics import intervals
from guidebook.metrics.subject import Subject, record
from guidebook.metrics.weights import Weights
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, share, world
from guidebook.runtime.precision import exact
from guidebook.runtime.rng import seed_of

IMAGENET = Weights("resnet18-f37072fd.pth", "f37072fd", url="https://download.pytorch.org/models/resnet18-f37072fd.pth")
SEED, PART = 0, 500


class Body:
    """ImageNet's weights as a group of metrics asks for them: the file may be missing, for there are random ones, but not wrong."""

    def why_absent(self) -> str | None:
        return IMAGENET.why_absent() if IMAGENET.path() else None


@dataclass(frozen=True)
class Untrained:
    network: nn.Module
    name: str  # for the `extractor` field of metric records

    @torch.no_grad()
    @exact()
    def read(self, images: torch.Tensor) -> torch.Tensor:
        """Classes (N,) int64, on the CPU, of images (N, C, H, W) uint8, which it sees in [−1, 1]: the range of the thesis."""
        device = next(self.network.parameters()).device
        parts = [self.network(part.to(device).float() / 127.5 - 1).argmax(1) for part in images.split(PART)]
        return torch.cat(parts).cpu()


def untrained_resnet18(channels: int, classes: int, seed: int) -> Untrained:
    """The classifier with one draw of its untrained layers.

    The first convolution is 3×3 with stride 1, the usual one for 32×32 pixels; the thesis gives no size. The body has ImageNet's
    weights where they are at hand, else random ones, and the name says which. Raises WeightsMissing where the file is another.
    """
    published = IMAGENET.path() is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("untrained", seed))
        from torchvision.models import resnet18

        network = resnet18(weights=None)
        if published:
            network.load_state_dict(IMAGENET.read())
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        network.fc = nn.Linear(network.fc.in_features, classes)
    body = "imagenet body" if published else "random body"
    return Untrained(network.eval().to(world().device), f"resnet18-untrained, {body}")


def of_published(run: Run, subject: Subject, draws: int = 20, n: int = 1000) -> list[dict]:
    """Of the first `n` samples, as many as were published, the record `accuracy_untrained`: the share that one draw of the classifier
    calls what was asked for. The interval is that of the images, the classifier taken as it is; several processes read a share each.

    Of as many real images the mean over draws of the untrained layers.
    """
    classes = len(load(run.params.data).classes)
    part = Split(subject.images[subject.order[:n]], subject.labels[subject.order[:n]])
    known = subject.known | {"n": len(part)}
    if subject.known["guidance"] is not None:
        reader = untrained_resnet18(subject.images.shape[1], classes, SEED)
        read = gathered(reader.read(part.images[share(len(part))]))
        value = intervals.wilson(int((read == part.labels).sum()), len(part))
        return [record("accuracy_untrained", value, "Wilson", reader.name, None, known)]
    found, name = chance(part, classes, draws)
    return [record("accuracy_untrained", intervals.mean(found), f"normal, {draws} draws", name, None, known)]


def chance(split: Split, classes: int, draws: int) -> tuple[np.ndarray, str]:
    """The accuracy (draws,) on labelled images of each draw of the untrained layers, and the classifier's name."""
    right = []
    for seed in range(draws):
        reader = untrained_resnet18(split.images.shape[1], classes, seed)
        right.append((reader.read(split.images) == split.labels).double().mean().item())
    return np.array(right), reader.name

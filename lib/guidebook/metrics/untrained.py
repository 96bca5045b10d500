"""The classifier by which the thesis measured prompt adherence on CIFAR-10 (section 3.3.6), as it is described there.

A ResNet-18 with ImageNet's weights, its first convolution and its last layer replaced, and nothing trained afterwards. The rows of
the random last layer are drawn alike and independently, hence the expected accuracy over the draws is exactly 1 / classes.
"""

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from guidebook.data.images import Split, load
from guidebook.metrics import intervals
from guidebook.metrics.networks import Network
from guidebook.metrics.subject import Subject
from guidebook.metrics.weights import RESNET
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, share, world
from guidebook.runtime.seeds import seed_of

SEED = 0


class Untrained(Network):
    """The classifier with one draw of its untrained layers; gives `classes` of images in [−1, 1], the range of the thesis.

    The first convolution is 3×3 with stride 1; the thesis gives no size. The body has ImageNet's weights where they are available,
    else random ones, as the name says. Raises WeightsMissing where the file is another.
    """

    batch = 500

    def __init__(self, channels: int, classes: int, seed: int):
        from torchvision.models import resnet18

        published = RESNET.path() is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("untrained", seed))
            network = resnet18(weights=None)
            if published:
                network.load_state_dict(RESNET.read())
            network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            network.fc = nn.Linear(network.fc.in_features, classes)
        self.network = network.eval().to(world().device)
        self.name = f"resnet18-untrained, {'imagenet' if published else 'random'} body"

    def forward(self, images):
        return {"classes": self.network(images.float() / 127.5 - 1).argmax(1)}


def of_untrained(run: Run, subject: Subject, draws: int = 20, n: int = 1000) -> list[dict]:
    """`accuracy_untrained`: of the first `n` samples, as many as were published, the accuracy of one draw of the classifier with the
    interval over images; of real images the mean over draws. Several processes read a share of the samples each.
    """
    classes = len(load(run.params.data).classes)
    part = Split(subject.images[subject.order[:n]], subject.labels[subject.order[:n]])
    if subject.known["guidance"] is not None:
        reader = Untrained(subject.images.shape[1], classes, SEED)
        read = gathered(reader.read(part.images[share(len(part))])["classes"])
        value = intervals.wilson(int((read == part.labels).sum()), len(part))
        return [subject.record("accuracy_untrained", value, "Wilson", reader, n=len(part))]
    shares, name = chance(part, classes, draws)
    return [subject.record("accuracy_untrained", intervals.mean(shares), f"normal, {draws} draws", name, n=len(part))]


def chance(split: Split, classes: int, draws: int) -> tuple[np.ndarray, str]:
    """The accuracy (draws,) on labelled images of each draw of the untrained layers, and the classifier's name."""
    right = []
    for seed in tqdm(range(draws), "untrained classifiers", unit="draw", delay=2, leave=False):
        reader = Untrained(split.images.shape[1], classes, seed)
        right.append((reader.read(split.images)["classes"] == split.labels).double().mean().item())
    return np.array(right), reader.name

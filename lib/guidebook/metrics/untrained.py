"""The classifier by which the thesis measured prompt adherence on CIFAR-10 (section 3.3.6), as it is described there.

A ResNet-18 with ImageNet's weights, its first convolution and its last layer replaced, and nothing trained afterwards. The rows of
the random last layer are drawn alike and independently, hence the expected accuracy over the draws is exactly 1 / classes.
"""

import numpy as np
import torch
from torch import nn

from guidebook.data.images import Split, load
from guidebook.metrics.intervals import Interval
from guidebook.metrics.networks import Network
from guidebook.metrics.subject import Subject, packed
from guidebook.metrics.weights import RESNET
from guidebook.runs.progress import measured
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, share, world
from guidebook.runtime.seeds import seed_of

BODIES, HEADS = 10, 100  # draws of the first layer, and of the last layer for each


class Untrained(Network):
    """The classifier with one draw of its first layer and many of its last; gives `classes` (B, heads) of images in [−1, 1], the range of the thesis.

    The first convolution is 3×3 with stride 1; the thesis gives no size. The body has ImageNet's weights where they are available,
    else random ones, as the name says. Raises WeightsMissing where the file is another.
    """

    batch = 500

    def __init__(self, channels: int, classes: int, seed: int, heads: int = HEADS):
        from torchvision.models import resnet18

        published = RESNET.path() is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("untrained", seed))
            network = resnet18(weights=None)
            if published:
                network.load_state_dict(RESNET.read())
            network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            network.fc = nn.Linear(network.fc.in_features, heads * classes)  # each row as that of a head of its own
        self.network, self.heads = network.eval().to(world().device), heads
        self.name = f"resnet18-untrained, {'imagenet' if published else 'random'} body"

    def forward(self, images):
        return {"classes": self.network(images.float() / 127.5 - 1).unflatten(1, (self.heads, -1)).argmax(2)}


def of_untrained(run: Run, subject: Subject, n: int = 1000) -> list[dict]:
    """`accuracy_untrained`: of the first `n` images, as many as were published, the mean accuracy over draws of the untrained layers, and
    between which values 19 of 20 draws lie. `draws` are the accuracies, of the same draws for every set. Several
    processes read a share of the images each. Samples of a prompt that is no class's caption have none.
    """
    if subject.label == -1:
        return []
    part = Split(subject.images[subject.order[:n]], subject.labels[subject.order[:n]])
    each, name = accuracies(part, len(load(run.params.data).classes), BODIES)
    found, how = Interval(each.mean(), *np.quantile(each, [0.025, 0.975])), f"95 % of {len(each):,} draws"
    return [subject.record("accuracy_untrained", found, how, name, n=len(part), draws=packed(each))]


def accuracies(split: Split, classes: int, bodies: int) -> tuple[np.ndarray, str]:
    """The accuracy (bodies · HEADS,) on labelled images of each draw of the untrained layers, and the classifier's name."""
    right, mine = [], share(len(split))
    for seed in measured(range(bodies), "untrained classifiers", "draw"):
        reader = Untrained(split.images.shape[1], classes, seed)
        read = gathered(reader.read(split.images[mine])["classes"])
        right.append((read == split.labels[:, None]).double().mean(0))
    return torch.cat(right).numpy(), reader.name

"""Adherence to captions that are built from attributes, and to edits of them: what the judge sees in the samples."""

import numpy as np
import torch

from guidebook.conditioning.captions import told
from guidebook.conditioning.grammar import CORE
from guidebook.config.datasets import ATTRIBUTES
from guidebook.data.images import unpacked
from guidebook.metrics.groups import JACKKNIFE
from guidebook.metrics.intervals import Interval, linear, proportion, wilson
from guidebook.metrics.judge import judge
from guidebook.metrics.networks import Network
from guidebook.metrics.subject import Subject
from guidebook.runs.run import Run

FEWEST = 10  # images with an attribute and without it, for it to be measured


def of_attributes(run: Run, subject: Subject, seen: torch.Tensor, network: Network) -> list[dict]:
    """`adherence`, and `adherence_attribute` and `obedience` of each attribute; `seen` (N,) is what the judge sees, as bits.

    The adherence to an attribute is the balanced accuracy, one half for a model that ignores the caption; `adherence` is its mean over
    the attributes that captions never leave out (`grammar.CORE`). `obedience` is how much likelier the attribute is seen where the
    caption has it. Samples of a prompt of their own have none of these.
    """
    if subject.prompt is not None:
        return []
    captions = [told(run.params, label, i) for i, label in enumerate(subject.labels.tolist())]
    with_it, without, seen = (unpacked(x, len(ATTRIBUTES)) for x in (torch.tensor(captions), ~subject.labels, seen))
    records, enough = [], []
    for i, name in enumerate(ATTRIBUTES):
        yes, no = seen[with_it[:, i], i], seen[without[:, i], i]
        if min(len(yes), len(no)) < FEWEST:
            continue
        enough += [i] if name in CORE else []
        gap = difference(wilson(int(yes.sum()), len(yes)), wilson(int(no.sum()), len(no)))
        for metric, value in (("adherence_attribute", Interval(*((1 + x) / 2 for x in gap))), ("obedience", gap)):
            records.append(subject.record(metric, value, "Newcombe", network, attribute=name, n=len(yes) + len(no)))
    if enough:
        mean = balanced(*(x[:, enough].numpy() for x in (seen, with_it, without)))
        records.insert(0, subject.record("adherence", mean, JACKKNIFE, network))
    return records


def of_edits(run: Run, subject: Subject, names: tuple[str, ...]) -> list[dict]:
    """`edit` and `edit_before` of each attribute; an image is followed by those in which each of `names` is switched."""
    network, records = judge(run.params.data), []
    seen = network.features(subject.images)["classes"]
    for i, name in enumerate(names):
        bit = 1 << ATTRIBUTES.index(name)
        wanted = subject.labels[i + 1 :: 1 + len(names)] & bit
        for metric, at in (("edit_before", 0), ("edit", i + 1)):
            right = (seen[at :: 1 + len(names)] & bit) == wanted
            value, n = wilson(int(right.sum()), len(right)), len(right)
            records.append(subject.record(metric, value, "Wilson", network, attribute=name, n=n))
    return records


# p₁ − p₂ between d ∓ sqrt of the squared distances of the shares to the ends of their own intervals   (Newcombe 1998, method 10)
def difference(a: Interval, b: Interval) -> Interval:
    """The difference of two independent shares, given with their Wilson intervals."""
    gap = a[0] - b[0]
    low = gap - ((a[0] - a[1]) ** 2 + (b[2] - b[0]) ** 2) ** 0.5
    high = gap + ((a[2] - a[0]) ** 2 + (b[0] - b[1]) ** 2) ** 0.5
    return Interval(gap, low, high)


# Of attribute k: ½ (p₁ + p₀), p₁ and p₀ the shares that are right where it was asked for and where not; an image moves them by
# n/n₁ (right − p₁) and n/n₀ (right − p₀)
def balanced(seen: np.ndarray, asked: np.ndarray, without: np.ndarray) -> Interval:
    """Mean balanced accuracy over attributes, of bools (N, K), with the interval of the infinitesimal jackknife over images."""
    shares, each = [], np.zeros(len(seen))
    for right, of in ((seen, asked), (~seen, without)):
        p = (right & of).sum(0) / np.maximum(of.sum(0), 1)
        shares.append(p)
        each += (of * (right - p) * len(seen) / np.maximum(of.sum(0), 1)).mean(1) / 2
    return proportion(linear(float(np.mean(shares)), each))

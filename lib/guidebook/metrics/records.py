"""The functions behind the groups: each reads a set of images with one network and gives its metric records."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from guidebook.config.datasets import superclasses
from guidebook.config.params import Data
from guidebook.data.images import load
from guidebook.metrics import intervals
from guidebook.metrics.attributes import of_attributes
from guidebook.metrics.copying import copies, copying, expected, nearest
from guidebook.metrics.frechet import Gaussian, fd_curve, fd_infinite, fewest, frechet_to, gaussian
from guidebook.metrics.groups import FRECHET, JACKKNIFE, TRAIN
from guidebook.metrics.judge import judge
from guidebook.metrics.kernel import kernel_distance
from guidebook.metrics.manifold import NEIGHBOURS, manifold
from guidebook.metrics.networks import NETWORKS, Network, RandomConvolutions
from guidebook.metrics.scores import clip_score, diversity, diversity_of_squares, grain, inception_score, saturation
from guidebook.metrics.subject import Subject, captions, of_real
from guidebook.runs.progress import measured
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, world

_random = functools.cache(RandomConvolutions)
# The network of each feature space of distances between sets, by the data
SPACES = {
    "judge": judge,
    "random": lambda data: _random(data.entry.channels),
    "inception": lambda _: NETWORKS["inception"],
}
PAIRED = 200  # images of a caption whose pairs LPIPS compares, at most


def rows(run: Run, subject: Subject, space: str) -> dict[str, torch.Tensor]:
    """Outputs of the network of a space for the subject, each (N, …), in the subject's order."""
    read = SPACES[space](run.params.data).features(subject.images)
    return {name: x[subject.order] for name, x in read.items()}


@functools.lru_cache(maxsize=4)
def reference(data: Data, network: Network) -> Gaussian:
    """The Gaussian of the train split in a feature space."""
    return gaussian(network.features(load(data).train.images)["features"])


def matched(run: Run, subject: Subject) -> int:
    """Number of images for metrics that depend on it: the same for samples and for real images."""
    return min(run.params.evaluate.samples, len(load(run.params.data).test), len(subject.images))


def of_judge(run: Run, subject: Subject) -> list[dict]:
    """adherence, confidence, fd_judge, diversity and grain, and fd_judge_inf where there are images enough; adherence_superclass where
    the classes have superclasses.

    Samples of a prompt that is no class's caption have no adherence.
    """
    network, adherence = SPACES["judge"](run.params.data), []
    read = network.features(subject.images)
    if run.params.data.entry.attributes:
        adherence = of_attributes(run, subject, read["classes"], network)
    elif subject.label != -1:
        data, seen, asked = run.params.data, read["classes"].numpy(), subject.labels.numpy()
        right = {"adherence": seen == asked}
        if groups := superclasses(data.name, data.entry.classes):
            right["adherence_superclass"] = np.equal(*(np.array(groups)[x] for x in (seen, asked)))
        adherence = [subject.record(m, intervals.share(r), "Wilson", network) for m, r in right.items()]
    spread = diversity(read["features"].numpy(), subject.labels.numpy())
    sure = intervals.proportion(intervals.mean(read["confidence"].numpy()))
    return [
        *adherence,
        subject.record("confidence", sure, "normal", network),
        *distances(run, subject, "judge"),
        *([subject.record("diversity", spread, "jackknife", network)] if spread else []),
        subject.record("grain", intervals.mean(grain(subject.images.numpy())), "normal", "Immerkær 1996"),
    ]


def of_blind(run: Run, subject: Subject) -> list[dict]:
    """fd_random and fd_random_inf, in features that know no classes, and diversity_pixels: the root mean squared difference of two images' pixels."""
    pixels = subject.images.flatten(1).numpy()
    spread = diversity(pixels, subject.labels.numpy(), pixels.shape[1] ** -0.5)
    return [
        *distances(run, subject, "random"),
        *([subject.record("diversity_pixels", spread, "jackknife", "pixels")] if spread else []),
    ]


def of_inception(run: Run, subject: Subject) -> list[dict]:
    """fid, kid, inception_score, precision, recall, density, coverage, and fid_inf where there are images enough."""
    score = inception_score(rows(run, subject, "inception")["logits"])
    return [
        *distances(run, subject, "inception"),
        *between_sets(run, subject, "inception"),
        subject.record("inception_score", score, JACKKNIFE, NETWORKS["inception"]),
    ]


def distances(run: Run, subject: Subject, space: str, counts: Sequence[int] = ()) -> list[dict]:
    """Fréchet distances to the train split: of as many images as are `matched`, or at each of several `counts`, and at infinitely many where they suffice."""
    network, metric = SPACES[space](run.params.data), FRECHET[space]
    mine, train = rows(run, subject, space)["features"], reference(run.params.data, network)
    if counts:
        found = fd_curve(mine, train, sorted({n for n in counts if n < len(mine)} | {len(mine)}))
    else:
        n = matched(run, subject)
        found = [(n, frechet_to(mine[:n], train, subject.classes(n)))]
    found = [(metric, n, value) for n, value in found]
    if len(mine) >= fewest(mine.shape[1]):
        found.append((f"{metric}_inf", len(mine), fd_infinite(mine, train)))
    return [subject.record(m, value, JACKKNIFE, network, TRAIN, n=n) for m, n, value in found]


def of_clip(run: Run, subject: Subject) -> list[dict]:
    """clip_score: of each image with its own caption."""
    own, network = captions(run, subject), NETWORKS["clip"]
    if own is None:
        return []
    place = {caption: i for i, caption in enumerate(dict.fromkeys(own))}
    written = network.captions(list(place))[[place[c] for c in own]]
    score = clip_score(network.features(subject.images)["features"], written)
    return [subject.record("clip_score", score, "normal", network)]


def of_lpips(run: Run, subject: Subject) -> list[dict]:
    """lpips_diversity: mean LPIPS of two images of one caption. Not through the cache: its features are larger than images."""
    network, kinds = NETWORKS["lpips"], subject.labels
    if captions(run, subject) is None or min(kinds.unique(return_counts=True)[1]) < 3:
        return []
    sums, mine = [], kinds.unique()[world().process_index :: world().num_processes].tolist()
    for kind in measured(mine, "LPIPS", "caption"):
        chosen = subject.order[kinds[subject.order] == kind][:PAIRED]
        own = torch.from_numpy(diversity_of_squares(network.read(subject.images[chosen])["features"]))
        sums.append(torch.stack([torch.full_like(own, kind), own], 1))
    found = gathered(torch.cat([torch.empty(0, 2, dtype=torch.float64), *sums]))
    value = intervals.pairs([found[found[:, 0] == kind, 1].numpy() for kind in found[:, 0].unique()])
    return [subject.record("lpips_diversity", value, "jackknife", network, n=len(found))]


def of_colour(run: Run, subject: Subject) -> list[dict]:
    """saturation."""
    return [subject.record("saturation", intervals.mean(saturation(subject.images.numpy())), "normal", "pixels")]


def of_copying(run: Run, subject: Subject) -> list[dict]:
    """copying, copies: of samples against the test split; of that, one half against the other."""
    unseen = _unseen(run.params.data)[of_real(run, "test").order]
    if subject.known["guidance"] is None:
        half = len(unseen) // 2
        mine, unseen, what = unseen[:half], unseen[half:], "the other half"
    else:
        mine, what = nearest(subject.images, load(run.params.data).train.images)[0].numpy(), "test split"
    read, facts = ("pixels", f"{what}, {len(unseen):,} images"), {"n": len(mine)}
    return [
        subject.record("copying", copying(mine, unseen), "DeLong", *read, **facts),
        subject.record("copies", copies(mine, unseen), "Wilson", *read, **facts, expected=expected(len(unseen))),
    ]


@functools.lru_cache(maxsize=2)
def _unseen(data: Data) -> np.ndarray:
    """Distance of each test image to the training images."""
    images = load(data)
    return nearest(images.test.images, images.train.images)[0].numpy()


def between_sets(run: Run, subject: Subject, space: str) -> list[dict]:
    """Kernel distance, precision, recall, density and coverage against as many images of the train split."""
    n = min(matched(run, subject), len(load(run.params.data).train))
    network, against = SPACES[space](run.params.data), f"{TRAIN}, {n:,} images"
    mine, real = (rows(run, each, space)["features"][:n] for each in (subject, of_real(run, "train")))
    kernel, ending = {"judge": ("kd_judge", "_judge"), "inception": ("kid", "")}[space]
    distance, near = kernel_distance(mine, real, subject.classes(n)), f"{against}, {NEIGHBOURS} neighbours"
    return [
        subject.record(kernel, distance, "jackknife", network, against, n=n),
        *(subject.record(m + ending, v, how, network, near, n=n) for m, (v, how) in manifold(mine, real).items()),
    ]


def of_test_images(run: Run, subject: Subject, space: str, n: int, m: int) -> list[dict]:
    """The Fréchet distance of n images to m of the test split."""
    real, network = of_real(run, "test"), SPACES[space](run.params.data)
    if n > len(subject.images) or m > len(real.images):
        have = f"{subject.name} has {len(subject.images):,}, {real.name} {len(real.images):,}"
        raise ValueError(f"{n:,} images against {m:,} were asked for, but {have}")
    against = gaussian(rows(run, real, space)["features"][:m])
    value = frechet_to(rows(run, subject, space)["features"][:n], against, subject.classes(n))
    return [subject.record(FRECHET[space], value, JACKKNIFE, network, f"{real.name}, {m:,} images", n=n)]

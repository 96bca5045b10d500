"""Every metric by group (`GROUPS`): what one network reads is measured together, and left out together where its weights are missing.

A new metric is a function in a file beside this one and its name here; its labels are in `report.charts` and `report.tables`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from guidebook.config.datasets import CATALOG
from guidebook.config.params import Data
from guidebook.data.images import load
from guidebook.metrics import intervals, published
from guidebook.metrics.attributes import of_attributes
from guidebook.metrics.copying import copies, copying, nearest
from guidebook.metrics.frechet import fd_infinite, fewest, frechet_to
from guidebook.metrics.kernel import kernel_distance
from guidebook.metrics.manifold import NEIGHBOURS, manifold
from guidebook.metrics.networks import NETWORKS
from guidebook.metrics.scores import clip_score, diversity, diversity_of_squares, grain, inception_score, saturation
from guidebook.metrics.subject import SPACES, Subject, captions, of_real, reference, rows
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, world

TRAIN, JACKKNIFE = "train split", "infinitesimal jackknife"
PAIRED = 200  # images of a caption whose pairs LPIPS compares, at most


def matched(run: Run, subject: Subject) -> int:
    """Number of images for metrics that depend on it: the same for samples and for real images."""
    return min(run.params.evaluate.samples, len(load(run.params.data).test), len(subject.images))


def of_judge(run: Run, subject: Subject) -> list[dict]:
    """adherence, fd_judge, diversity and grain."""
    network, n = SPACES["judge"](run.params.data), matched(run, subject)
    read, ordered = network.features(subject.images), rows(run, subject, "judge")["features"]
    if CATALOG[run.params.data.name].attributes:
        adherence = of_attributes(run, subject, read["classes"], network)
    else:
        right = int((read["classes"] == subject.labels).sum())
        adherence = [subject.record("adherence", intervals.wilson(right, len(subject.labels)), "Wilson", network)]
    fd = frechet_to(ordered[:n], reference(run.params.data, network))
    spread = diversity(read["features"].numpy(), subject.labels.numpy())
    return [
        *adherence,
        subject.record("fd_judge", fd, JACKKNIFE, network, TRAIN, n=n),
        *([subject.record("diversity", spread, "jackknife", network)] if spread else []),
        subject.record("grain", intervals.mean(grain(subject.images.numpy())), "normal", "Immerkær 1996"),
    ]


def of_inception(run: Run, subject: Subject) -> list[dict]:
    """fid, kid, inception_score, precision, recall, density, coverage, and fid_inf where there are images enough."""
    network, n, read = NETWORKS["inception"], matched(run, subject), rows(run, subject, "inception")
    mine, train = read["features"], reference(run.params.data, network)
    records = [
        subject.record("fid", frechet_to(mine[:n], train), JACKKNIFE, network, TRAIN, n=n),
        *between_sets(run, subject, "inception"),
        subject.record("inception_score", inception_score(read["logits"]), JACKKNIFE, network),
    ]
    if len(mine) >= fewest(mine.shape[1]):
        records.append(subject.record("fid_inf", fd_infinite(mine, train), JACKKNIFE, network, TRAIN))
    return records


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
    network, kinds = NETWORKS["lpips"], subject.labels if subject.prompt is None else torch.zeros_like(subject.labels)
    if captions(run, subject) is None or min(kinds.unique(return_counts=True)[1]) < 3:
        return []
    sums, mine = [], kinds.unique()[world().process_index :: world().num_processes].tolist()
    for kind in tqdm(mine, "LPIPS", unit="caption", delay=2, leave=False):
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
    against = f"{what}, {len(unseen):,} images"
    return [
        subject.record("copying", copying(mine, unseen), "DeLong", "pixels", against, n=len(mine)),
        subject.record("copies", copies(mine, unseen), "Wilson", "pixels", against, n=len(mine)),
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
    records = [subject.record(kernel, kernel_distance(mine, real), "jackknife", network, against, n=n)]
    for metric, (value, method) in manifold(mine, real).items():
        near = f"{against}, {NEIGHBOURS} neighbours"
        records.append(subject.record(metric + ending, value, method, network, near, n=n))
    return records


@dataclass(frozen=True)
class Group:
    metrics: tuple[str, ...]
    make: Callable[[Run, Subject], list[dict]]


MANIFOLD = ("precision", "recall", "density", "coverage")
GROUPS = {
    "judge": Group(("adherence", "fd_judge", "diversity", "grain"), of_judge),
    "manifold": Group(("kd_judge", *(f"{m}_judge" for m in MANIFOLD)), functools.partial(between_sets, space="judge")),
    "published": Group(("accuracy_untrained",), published.of_published),
    "copying": Group(("copying", "copies"), of_copying),
    "colour": Group(("saturation",), of_colour),
    "inception": Group(("fid", "kid", *MANIFOLD, "inception_score", "fid_inf"), of_inception),
    "clip": Group(("clip_score",), of_clip),
    "lpips": Group(("lpips_diversity",), of_lpips),
}


def why_absent(group: str) -> str | None:
    """Why the weights of a group's network cannot be read, in one line, or None. Judges are trained where there is none."""
    reader = {**NETWORKS, "published": published}.get(group)
    return reader.why_absent() if reader else None

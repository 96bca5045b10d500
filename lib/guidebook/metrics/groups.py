"""Groups of metrics, one for each network that reads the images: a group is measured whole or, without its weights, not at all."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.config.datasets import CATALOG
from guidebook.config.params import Data
from guidebook.data.images import load
from guidebook.metrics import intervals
from guidebook.metrics.attributes import of_attributes
from guidebook.metrics.copying import copies, copying, nearest
from guidebook.metrics.curve import fd_infinite, fewest
from guidebook.metrics.distances import diversity, diversity_of_squares, frechet_to, grain, saturation
from guidebook.metrics.features import features
from guidebook.metrics.kernel import kernel_distance
from guidebook.metrics.manifold import NEIGHBOURS, manifold
from guidebook.metrics.networks import Clip, Inception, JudgeNetwork, Network
from guidebook.metrics.perceptual import Lpips
from guidebook.metrics.published import Body, of_published
from guidebook.metrics.scores import clip_score, inception_score
from guidebook.metrics.subject import SPACES, Subject, captions, real_rows, record, reference, rows, shuffle
from guidebook.runs.run import Run
from guidebook.runtime.distributed import gathered, world

TRAIN, JACKKNIFE = "train split", "infinitesimal jackknife"
PAIRED = 200  # images of a caption whose pairs LPIPS compares, at most


def matched(run: Run, subject: Subject) -> int:
    """How many images are measured. What depends on their number is measured at the same for samples and for real images."""
    return min(run.params.evaluate.samples, len(load(run.params.data).test), len(subject.images))


def of_judge(run: Run, subject: Subject) -> list[dict]:
    """adherence, fd_judge, diversity and grain."""
    network, known, n = JudgeNetwork(run.params.data), subject.known, matched(run, subject)
    read = features(subject.images, network)
    if CATALOG[run.params.data.name].attributes:
        adherence = of_attributes(run, subject, read["classes"], network)
    else:
        right = int((read["classes"] == subject.labels).sum())
        adherence = [record("adherence", intervals.wilson(right, len(subject.labels)), "Wilson", network, None, known)]
    fd = frechet_to(rows(run, subject, "judge")["features"][:n], reference(run, "judge"))
    spread = diversity(read["features"].numpy(), subject.labels.numpy())
    return [
        *adherence,
        record("fd_judge", fd, JACKKNIFE, network, TRAIN, known | {"n": n}),
        *([record("diversity", spread, "jackknife", network, None, known)] if spread else []),
        record("grain", intervals.mean(grain(subject.images.numpy())), "normal", "Immerkær 1996", None, known),
    ]


def of_manifold(run: Run, subject: Subject) -> list[dict]:
    """kd_judge, precision_judge, recall_judge, density_judge and coverage_judge."""
    mine = rows(run, subject, "judge")["features"]
    return _between_sets(run, subject, mine, "judge", "kd_judge", "_judge")


def of_inception(run: Run, subject: Subject) -> list[dict]:
    """fid, kid, inception_score, precision, recall, density, coverage, and fid_inf where there are images enough."""
    network, n, train = Inception(), matched(run, subject), reference(run, "inception")
    read, every = rows(run, subject, "inception"), subject.known | {"n": len(subject.images)}
    mine, score = read["features"], inception_score(read["logits"])
    found = [
        record("fid", frechet_to(mine[:n], train), JACKKNIFE, network, TRAIN, subject.known | {"n": n}),
        *_between_sets(run, subject, mine, "inception", "kid", ""),
        record("inception_score", score, JACKKNIFE, network, None, every),
    ]
    if len(mine) >= fewest(mine.shape[1]):
        found.append(record("fid_inf", fd_infinite(mine, train), JACKKNIFE, network, TRAIN, every))
    return found


def of_clip(run: Run, subject: Subject) -> list[dict]:
    """clip_score: of each image with its own caption."""
    asked, network = captions(run, subject), Clip()
    if asked is None:
        return []
    place = {caption: i for i, caption in enumerate(dict.fromkeys(asked))}
    written = network.captions(list(place))[[place[c] for c in asked]]
    score = clip_score(features(subject.images, network)["features"], written)
    return [record("clip_score", score, "normal", network, None, subject.known | {"n": len(asked)})]


def of_lpips(run: Run, subject: Subject) -> list[dict]:
    """lpips_diversity: mean LPIPS of two images of one caption. Not through the cache: its features are larger than images."""
    network, asked = Lpips(), captions(run, subject)
    kinds = subject.labels if subject.prompt is None else torch.zeros_like(subject.labels)
    if asked is None or min(kinds.unique(return_counts=True)[1]) < 3:
        return []
    sums = []
    for kind in kinds.unique()[world().process_index :: world().num_processes].tolist():
        chosen = subject.order[kinds[subject.order] == kind][:PAIRED]
        own = torch.from_numpy(diversity_of_squares(network.read(subject.images[chosen])["features"]))
        sums.append(torch.stack([torch.full_like(own, kind), own], 1))
    found = gathered(torch.cat([torch.empty(0, 2, dtype=torch.float64), *sums]))
    value = intervals.pairs([found[found[:, 0] == kind, 1].numpy() for kind in found[:, 0].unique()])
    return [record("lpips_diversity", value, "jackknife", network, None, subject.known | {"n": len(found)})]


def of_colour(run: Run, subject: Subject) -> list[dict]:
    """saturation."""
    value = intervals.mean(saturation(subject.images.numpy()))
    return [record("saturation", value, "normal", "pixels", None, subject.known | {"n": len(subject.images)})]


def of_copying(run: Run, subject: Subject) -> list[dict]:
    """copying, copies: of samples against the test split; of that, one half against the other."""
    images = load(run.params.data)
    unseen = _unseen(run.params.data)[shuffle(len(images.test))]
    if subject.known["guidance"] is None:
        half = len(unseen) // 2
        mine, unseen, what = unseen[:half], unseen[half:], "the other half"
    else:
        mine, what = nearest(subject.images, images.train.images)[0].numpy(), "test split"
    told = ("pixels", f"{what}, {len(unseen):,} images", subject.known | {"n": len(mine)})
    return [
        record("copying", copying(mine, unseen), "DeLong", *told),
        record("copies", copies(mine, unseen), "Wilson", *told),
    ]


@functools.lru_cache(maxsize=2)
def _unseen(data: Data) -> np.ndarray:
    """Distance of each test image to the training images."""
    images = load(data)
    return nearest(images.test.images, images.train.images)[0].numpy()


def _between_sets(run: Run, subject: Subject, mine: torch.Tensor, space: str, kernel: str, ending: str) -> list[dict]:
    """Kernel distance, precision, recall, density and coverage against as many images of the train split."""
    n = min(matched(run, subject), len(load(run.params.data).train))
    network, known, against = SPACES[space](run.params.data), subject.known | {"n": n}, f"{TRAIN}, {n:,} images"
    mine, real = mine[:n], real_rows(run, "train", space, n)
    found = [record(kernel, kernel_distance(mine, real), "jackknife", network, against, known)]
    for metric, (value, method) in manifold(mine, real).items():
        near = f"{against}, {NEIGHBOURS} neighbours"
        found.append(record(metric + ending, value, method, network, near, known))
    return found


@dataclass(frozen=True)
class Group:
    metrics: tuple[str, ...]
    make: object  # (run, subject) → records
    network: Network | Body | None = None  # whose weights may be absent

    def why_absent(self) -> str | None:
        why = self.network and self.network.why_absent()
        return why and f"{', '.join(self.metrics)}: {why}"


MANIFOLD = ("precision", "recall", "density", "coverage")
GROUPS = {
    "judge": Group(("adherence", "fd_judge", "diversity", "grain"), of_judge),
    "manifold": Group(("kd_judge", *(f"{m}_judge" for m in MANIFOLD)), of_manifold),
    "published": Group(("accuracy_untrained",), of_published, Body()),
    "copying": Group(("copying", "copies"), of_copying),
    "colour": Group(("saturation",), of_colour),
    "inception": Group(("fid", "kid", *MANIFOLD, "inception_score", "fid_inf"), of_inception, Inception()),
    "clip": Group(("clip_score",), of_clip, Clip()),
    "lpips": Group(("lpips_diversity",), of_lpips, Lpips()),
}

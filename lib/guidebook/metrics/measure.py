"""Metric records of image sets, each measured once."""

import functools
from collections.abc import Callable, Sequence

from guidebook.config.budget import share
from guidebook.config.params import digest
from guidebook.metrics.difference import again
from guidebook.metrics.groups import GROUPS, lazily
from guidebook.metrics.subject import Subject, of_real, of_samples
from guidebook.metrics.weights import why_absent
from guidebook.runs import launch
from guidebook.runs.lock import owned
from guidebook.runs.preemption import stopping
from guidebook.runs.progress import tell
from guidebook.runs.run import Run
from guidebook.runs.trainings import siblings
from guidebook.runtime.distributed import agreed, barrier, world
from guidebook.sampling.sets import ImageSet, image_set, stored

COUNTS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def measure(run: Run, images: ImageSet | str | None, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """Records of a set of samples, or of that in `samples/<images>`, group by group (`groups.GROUPS`); for None, of the test split.

    A group whose weights are not on this machine, or that a recorded run does not hold, gives nothing: `absent` says why. Several
    processes read a share of the images each. Raises Preempted.
    """
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"no group of metrics is called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    images = stored(run.path / "samples" / images) if isinstance(images, str) else images
    subject = _subject(run, images)
    if launch.wanted(run.params) and not run.recorded:
        missing = [g for g in groups if not _found(run, subject, g)[1] and not why_absent(g)]
        if missing:
            launch.do(run, "measure", images=images and images.folder.name, groups=missing)
    made = (once(run, subject, g, GROUPS[g].make, weights=g, needed=g == "judge") for g in groups)
    return [record for records in made for record in records]


def measure_real(run: Run, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """The records of the test split, which no model has seen: what a perfect model would reach."""
    return measure(run, None, groups)


def absent(groups: Sequence[str]) -> list[str]:
    """Why groups cannot be measured on this machine: the metrics, the file and where to put it, a line each."""
    return [f"{', '.join(GROUPS[group].metrics)}: {why}" for group in groups if (why := why_absent(group))]


def judge_record(run: Run) -> dict:
    """How well the judge itself reads the test split: the record `adherence` of the real images."""
    return next(r for r in measure_real(run) if r["metric"] == "adherence")


def fd_curve_records(run: Run, images: ImageSet | None, space: str = "judge", counts: Sequence = COUNTS) -> list[dict]:
    """The Fréchet distance to the train split against the number of images, in the space `judge` or `inception`.

    `fd_judge` (`fid`) at each count, and `fd_judge_inf` (`fid_inf`) where images suffice; for `images` None the test split's: the floor.
    """
    make = lazily("records:distances", space=space, counts=counts)
    return once(run, _subject(run, images), f"curve-{space}", make, list(counts), space)


def frechet_against(run: Run, images: ImageSet | None, n: int, m: int, space: str = "inception") -> list[dict]:
    """The Fréchet distance of the first `n` images of a set to `m` of the test split's fixed shuffle: one record, or none.

    For `images` None of the train split's: the floor of this protocol. Raises ValueError where there are fewer.
    """
    make = lazily("records:of_test_images", space=space, n=n, m=m)
    return once(run, _subject(run, images, "train"), f"against-{space}", make, [n, m, "test"], space)


def edit_records(run: Run, images: ImageSet) -> list[dict]:
    """`edit` of each attribute that `explore.edits` switched: the share of faces in which the judge sees it as the caption has it.

    `edit_before` is the same before the change, which a model that ignores it stays at.
    """
    make = lazily("attributes:of_edits", names=images.draw.edits)
    return once(run, of_samples(run, images), "edits", make, images.draw.edits, needed=True)


def round_trip(run: Run) -> ImageSet:
    """Some test images, each before its way through the autoencoder and after it."""
    return image_set(run, "round-trip", {"images": "10 of the test split"}, lambda: lazily("roundtrip:pairs")(run, 10))


def round_trip_records(run: Run, enlarged: int = 1) -> list[dict]:
    """`psnr`, `ssim`, `rfd_judge` and `rfid` of the test images after the trip; of larger ones, by a factor, the first two.

    PSNR (dB) is the mean over images of 10 log₁₀(255² / mean squared error); SSIM is that of Wang et al. (2004). The Fréchet distances
    are between the test images after the trip and the train split; that of Inception is left out where its weights are not available.
    """
    name = "round trip" if enlarged == 1 else f"round trip at {enlarged * run.params.data.resolution} pixels"
    subject = Subject(name, lambda: lazily("roundtrip:after", enlarged=enlarged)(run))
    records = once(run, subject, name, lazily("roundtrip:errors", enlarged=enlarged), needed=True)
    for space in ("judge", "inception") if enlarged == 1 else ():
        records += once(run, subject, f"{name} {space}", lazily("roundtrip:distance", space=space), weights=space)
    return records


def psnr_records(run: Run, images: ImageSet, other: ImageSet) -> list[dict]:
    """`psnr` (dB) of each sample to the one of the same seed in another set of as many: how far two models draw alike."""
    make = lazily("roundtrip:of_same_seeds", other=other)
    return once(run, of_samples(run, images), "same seeds", make, [other.folder.name], needed=True)


def six_records(run: Run, images: ImageSet, other: ImageSet, ratio: float) -> list[dict]:
    """`fd_six`, a Fréchet distance of six samples, and `falls_of_six`, how often it is below that of another set by a ratio or more."""
    make = lazily("few:of_six", other=other, ratio=ratio)
    return once(run, of_samples(run, images), "six", make, [other.folder.name, round(ratio, 6)], needed=True)


def neighbours(run: Run, images: ImageSet, n: int = 20) -> ImageSet:
    """The n samples that lie nearest to a training image, nearest first, each followed by that image."""
    make = lazily("copying:beside_nearest", n=n)
    return image_set(run, "neighbours", {"of": images.folder.name, "pairs": n}, lambda: make(run, images))


def once(
    run: Run, subject: Subject, group: str, make: Callable, spec: Sequence = (), weights: str = "", needed: bool = False
) -> list[dict]:
    """The records of a group of metrics, made by all processes together where the run has none, and added all or none.

    `spec` is what they depend on besides the images and the group, `weights` the group without whose weights there are none;
    where they are `needed`, a recorded run without them raises NotRecorded. Those of samples have `again` where the run was
    trained again: `difference.again`.
    """
    key, found = _found(run, subject, group, spec)
    # A process of another node may lack what this one has: then all do without.
    if not run.recorded and not found and not agreed(why_absent(weights) is not None):
        with owned(run.path), stopping(run) as stop:
            at = (subject.known["draw"] or {}).get("at")
            where = {"share": share(run.params, at), "training": run.params.train.seed} if subject.known["draw"] else {}
            tell(f"measuring {subject.name}: {group}")
            records = [{**r, "set": subject.name, "key": key, "group": group, **where} for r in make(run, subject)]
            if world().is_main_process and records:
                run.add_metrics(records)
            barrier()
            if stop.asked():
                stop.obey(f"measuring {subject.name}")
        found = run.metrics(key=key)
    if needed and not found:
        run.needs(f"the measurement of {subject.name}")
    others = [r for sibling in _siblings(run) for r in sibling.metrics(group=group)] if subject.known["draw"] else []
    return [again(r, others) for r in found]


_siblings = functools.lru_cache(maxsize=64)(siblings)  # those that were there when the first set was measured


def _found(run: Run, subject: Subject, group: str, spec: Sequence = ()) -> tuple[str, list[dict]]:
    """The key of a group's records, and those that the run has. Older ones have the seconds of an image in their key."""
    known = subject.known, subject.known | {"seconds_per_image": subject.seconds}
    key, older = (digest([subject.name, of, group, list(spec), run.params.evaluate.samples]) for of in known)
    return key, run.metrics(key=key) or run.metrics(key=older)


def _subject(run: Run, images: ImageSet | None, split: str = "test") -> Subject:
    return of_samples(run, images) if images else of_real(run, split)

"""Metric records of image sets: measured once, found afterwards."""

import functools
from collections.abc import Callable, Sequence

from guidebook.config.params import digest
from guidebook.metrics.frechet import fd_curve, fd_infinite, fewest, frechet_to, gaussian
from guidebook.metrics.groups import GROUPS, JACKKNIFE, TRAIN
from guidebook.metrics.records import fields
from guidebook.metrics.subject import SPACES, Subject, of_real, of_samples, real_rows, reference, rows
from guidebook.runs import pool
from guidebook.runs.lock import owned
from guidebook.runs.preemption import stopping
from guidebook.runs.run import Run
from guidebook.runtime.distributed import agreed, barrier, world
from guidebook.sampling.sets import ImageSet, stored

COUNTS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
FRECHET = {"judge": "fd_judge", "inception": "fid"}  # what a Fréchet distance is called in each feature space


def measure(run: Run, images: ImageSet | None, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """Records of a set of samples, group by group (`groups.GROUPS`); for None, of the test split.

    `fd_judge` is a Fréchet distance to the train split in the judge's features, each standardised by the train split. It is no FID and
    cannot be compared with one. A group whose weights are not on this machine, or that a recorded run does not hold, gives nothing:
    `absent` says why. Several processes read a share of the images each. Raises Preempted.
    """
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"no group of metrics is called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if pool.wanted(run.params) and not run.recorded:
        missing = [g for g in groups if not run.metrics(key=_key(run, images, g)) and not GROUPS[g].absent()]
        if missing:
            pool.do(run, "measure", folder=images and images.folder.name, groups=missing)
    subject = functools.cache(lambda: _subject(run, images))
    found = []
    for group in groups:
        make = functools.partial(lambda group: GROUPS[group].make(run, subject()), group)
        found += once(run, images, group, make, absent=GROUPS[group].absent(), needed=group == "judge")
    return found


def measure_stored(run: Run, folder: str | None, groups: Sequence[str]) -> list[dict]:
    """`measure` of the set in `samples/<folder>`, or of the test split."""
    return measure(run, folder and stored(run.path / "samples" / folder), groups)


def measure_real(run: Run, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """The same records of the test split, which no model has seen: what a perfect model would reach."""
    return measure(run, None, groups)


def absent(groups: Sequence[str]) -> list[str]:
    """Why groups cannot be measured on this machine: the metrics, the file and where to put it, a line each."""
    return [f"{', '.join(GROUPS[group].metrics)}: {why}" for group in groups if (why := GROUPS[group].absent())]


def judge_record(run: Run) -> dict:
    """How well the judge itself reads the test split: the record `adherence` of the real images."""
    return next(r for r in measure_real(run) if r["metric"] == "adherence")


def fd_curve_records(
    run: Run, images: ImageSet | None, space: str = "judge", counts: Sequence[int] = COUNTS
) -> list[dict]:
    """The Fréchet distance to the train split against the number of images, in the space `judge` or `inception`.

    Records `fd_judge` (`fid`) at each count there are images for and at all of them, and `fd_judge_inf` (`fid_inf`) where there are enough to
    extrapolate. For `images` None of the test split: the floor of each.
    """

    def make() -> list[dict]:
        subject, network, metric = _subject(run, images), SPACES[space](run.params.data), FRECHET[space]
        mine, train = rows(run, subject, space)["features"], reference(run.params.data, network)
        some = sorted({c for c in counts if c < len(mine)} | {len(mine)})
        points = [(metric, n, value) for n, value in fd_curve(mine, train, some)]
        if len(mine) >= fewest(mine.shape[1]):
            points.append((f"{metric}_inf", len(mine), fd_infinite(mine, train)))
        return [subject.record(m, value, JACKKNIFE, network, TRAIN, n=n) for m, n, value in points]

    return once(run, images, f"curve-{space}", make, list(counts), absent=why_absent(space))


def frechet_against(
    run: Run,
    images: ImageSet | None,
    n: int,  # images, the first of the set
    m: int,  # real images, the first of a fixed shuffle of the split
    split: str = "test",
    space: str = "inception",
) -> list[dict]:
    """A Fréchet distance by another protocol: 1,000 samples against 1,000 test images, say. One record, or none.

    For `images` None of the other split's real images: the floor of this protocol. Raises ValueError where there are fewer.
    """
    other = "train" if split == "test" else "test"

    def make() -> list[dict]:
        subject, real = _subject(run, images, other), of_real(run, split)
        if n > len(subject.images) or m > len(real.images):
            there = f"{subject.name} has {len(subject.images):,}, {real.name} {len(real.images):,}"
            raise ValueError(f"{n:,} images against {m:,} were asked for, but {there}")
        value = frechet_to(rows(run, subject, space)["features"][:n], gaussian(real_rows(run, split, space, m)))
        network, against = SPACES[space](run.params.data), f"{split} split, {m:,} images"
        return [subject.record(FRECHET[space], value, JACKKNIFE, network, against, n=n)]

    return once(run, images, f"against-{space}", make, [n, m, split], why_absent(space), split=other)


def why_absent(space: str) -> str | None:
    """Why the network of a feature space cannot read here, or None: a judge is trained where there is none."""
    if space not in SPACES:
        raise ValueError(f"no feature space is called {space!r:.60}; there are {', '.join(SPACES)}")
    return None if space == "judge" else GROUPS[space].absent()


def once(
    run: Run,
    images: ImageSet | str | None,  # a set of samples, the name of other images, or None for a split
    group: str,
    make: Callable[[], list[dict]],
    spec: Sequence = (),  # what the records depend on besides the images and the group
    absent: str | None = None,  # why they cannot be made here: then there are none
    needed: bool = False,  # whether a recorded run must have them, else NotRecorded is raised
    split: str = "test",
) -> list[dict]:
    """The records of a group of metrics: found, else made by all processes together and added, all or none."""
    key, name = _key(run, images, group, spec, split), _name(images, split)
    # A process of another node may lack what this one has: then all do without.
    if not run.recorded and not run.metrics(key=key) and not agreed(absent is not None):
        with owned(run.path), stopping(run):
            records = [r | {"set": name, "key": key, "group": group} for r in make()]
            if world().is_main_process and records:
                run.add_metrics(records)
            barrier()
    found = run.metrics(key=key)
    if needed and not found:
        run.needs(f"the measurement of {name}")
    return found


def _key(run: Run, images: ImageSet | str | None, group: str, spec: Sequence = (), split: str = "test") -> str:
    drawn = fields(images.facts) | {"n": images.facts["n"]} if isinstance(images, ImageSet) else None
    drawn = drawn and {k: v for k, v in drawn.items() if k != "seconds_per_image"}
    return digest([_name(images, split), drawn, group, list(spec), run.params.evaluate.samples])


def _name(images: ImageSet | str | None, split: str) -> str:
    return images if isinstance(images, str) else images.name if images else f"{split} split"


def _subject(run: Run, images: ImageSet | None, split: str = "test") -> Subject:
    return of_samples(images) if images else of_real(run, split)

"""Metric records of image sets: measured once, found afterwards."""

from collections.abc import Callable, Sequence

from guidebook.config.params import digest
from guidebook.metrics.curve import fd_curve, fd_infinite, fewest
from guidebook.metrics.distances import frechet_to, gaussian
from guidebook.metrics.groups import GROUPS, JACKKNIFE, TRAIN
from guidebook.metrics.subject import (
    SPACES,
    Subject,
    of_real,
    of_samples,
    real_rows,
    record,
    reference,
    rows,
)
from guidebook.runs import pool
from guidebook.runs.lock import owned
from guidebook.runs.run import Run
from guidebook.runtime.distributed import agreed, barrier, world
from guidebook.sampling.sets import ImageSet, stored

REAL = "test split"
COUNTS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
FRECHET = {"judge": "fd_judge", "inception": "fid"}  # what a Fréchet distance is called in each feature space


def measure(run: Run, images: ImageSet, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """Records of a set of samples, group by group (`groups.GROUPS`).

    `fd_judge` is a Fréchet distance to the train split in the judge's features. It is no FID and cannot be compared with one.
    A group whose weights are not on this machine, or that a record does not hold, gives nothing: `absent` says why. Several
    processes read a share of the images each.
    """
    stage = ("measure", {"folder": images.folder.name})
    return _groups(run, images.name, _asked(images), groups, stage, lambda: of_samples(images))


def measure_stored(run: Run, folder: str, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """`measure` of the set in `samples/<folder>`."""
    return measure(run, stored(run.path / "samples" / folder), groups)


def measure_real(run: Run, groups: Sequence[str] = ("judge",)) -> list[dict]:
    """The same records of the test split, which no model has seen: what a perfect model would reach."""
    return _groups(run, REAL, _asked_real(run), groups, ("measure_real", {}), lambda: of_real(run, "test"))


def absent(groups: Sequence[str]) -> list[str]:
    """Why groups cannot be measured on this machine: the metrics, the file and where to put it, a line each."""
    return [why for group in groups if (why := GROUPS[group].why_absent())]


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
    name, asked = _named(run, images)

    def make() -> list[dict]:
        subject, network, metric = _subject(run, images, "test"), SPACES[space](run.params.data), FRECHET[space]
        mine, train = rows(run, subject, space)["features"], reference(run, space)
        some = sorted({c for c in counts if c < len(mine)} | {len(mine)})
        points = [(metric, n, value) for n, value in fd_curve(mine, train, some)]
        if len(mine) >= fewest(mine.shape[1]):
            points.append((f"{metric}_inf", len(mine), fd_infinite(mine, train)))
        return [record(m, value, JACKKNIFE, network, TRAIN, subject.known | {"n": n}) for m, n, value in points]

    return _in_space(run, name, [asked, list(counts)], f"curve-{space}", space, make)


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
    name, asked = _named(run, images, "train" if split == "test" else "test")

    def make() -> list[dict]:
        subject, real = _subject(run, images, "train" if split == "test" else "test"), of_real(run, split)
        if n > len(subject.images) or m > len(real.images):
            there = f"{subject.name} has {len(subject.images):,}, {real.name} {len(real.images):,}"
            raise ValueError(f"{n:,} images against {m:,} were asked for, but {there}")
        value = frechet_to(rows(run, subject, space)["features"][:n], gaussian(real_rows(run, split, space, m)))
        against, known = f"{split} split, {m:,} images", subject.known | {"n": n}
        return [record(FRECHET[space], value, JACKKNIFE, SPACES[space](run.params.data), against, known)]

    return _in_space(run, name, [asked, n, m, split], f"against-{space}", space, make)


def _asked(images: ImageSet) -> dict:
    """What tells a set from others of its name."""
    return images.draw.json


def _asked_real(run: Run) -> dict:
    return {"real": True, "samples": run.params.evaluate.samples}


def _named(run: Run, images: ImageSet | None, split: str = "test") -> tuple[str, dict]:
    return (f"{split} split", {"real": True}) if images is None else (images.name, _asked(images))


def _subject(run: Run, images: ImageSet | None, split: str) -> Subject:
    return of_real(run, split) if images is None else of_samples(images)


def _groups(
    run: Run, name: str, asked: dict, groups: Sequence[str], stage: tuple[str, dict], subject: Callable[[], Subject]
) -> list[dict]:
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"no group of metrics is called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    keys = {group: _key(run, name, asked, group) for group in groups}
    missing = [group for group, key in keys.items() if not run.metrics(key=key)]
    if run.recorded:
        if "judge" in missing:
            run.needs(f"the measurement of {name}")
        missing = []
    # A process of another node may lack what this one has: then all do without.
    missing = [group for group in missing if not agreed(GROUPS[group].why_absent() is not None)]
    if missing and pool.wanted(run.params):
        pool.do(run, stage[0], **stage[1], groups=missing)
    else:
        for group in missing:
            with owned(run.path):
                _add(run, name, keys[group], group, GROUPS[group].make(run, subject()))
    return [r for key in keys.values() for r in run.metrics(key=key)]


def _in_space(run: Run, name: str, asked: list, group: str, space: str, make: Callable[[], list[dict]]) -> list[dict]:
    """Records of one feature space, found or made by this process alone."""
    if space not in SPACES:
        raise ValueError(f"no feature space is called {space!r:.60}; there are {', '.join(SPACES)}")
    key = digest([name, asked, group])
    if run.recorded or not SPACES[space](run.params.data).at_hand():
        return run.metrics(key=key)
    return once(run, name, key, group, make)


def once(run: Run, name: str, key: str, group: str, make: Callable[[], list[dict]]) -> list[dict]:
    """The records of `key`: found, else made now and added, all or none. Raises NotRecorded."""
    if not run.metrics(key=key):
        run.needs(f"the measurement of {name}")
        with owned(run.path):
            _add(run, name, key, group, make())
    return run.metrics(key=key)


def _key(run: Run, name: str, asked: dict, group: str) -> str:
    return digest([name, asked, group, run.params.evaluate.samples])


def _add(run: Run, name: str, key: str, group: str, records: list[dict]) -> None:
    if world().is_main_process and records:
        run.add_metrics([r | {"set": name, "key": key, "group": group} for r in records])
    barrier()

"""Averages of weights of any length, after the training, from snapshots of two power-function averages (Karras et al. 2024, §3.2)."""

from pathlib import Path

from guidebook import models
from guidebook.config.budget import images, snapshot_steps
from guidebook.config.errors import ParamsError
from guidebook.config.schema import length_of
from guidebook.runs.artifact import artifact
from guidebook.runs.run import Run
from guidebook.training import checkpoint
from guidebook.training.power import combination, exponent

SNAPSHOTS = "snapshots"
LEAST = 4  # moments with snapshots that a reconstruction may rest on


def reconstructed(run: Run, weights: str, at: int | None = None) -> Path:
    """The folder of the backbone with `power-LENGTH` weights at the end of the training, or after `at` images: an artifact.

    Raises ParamsError for a length that the snapshots do not carry and a moment that has none, Corrupt where one of them is damaged
    or gone, and OSError where the disk is full.
    """
    length, folder = length_of(weights), run.path / SNAPSHOTS
    end, apart = at or images(run.params), snapshot_steps(run.params) * run.params.train.batch
    kept = {n: path for path in checkpoint.complete(folder) if (n := checkpoint.images(path)) <= end}
    if end not in kept:
        raise ParamsError(
            f"{run.name} has no snapshot of its averages after {end:,} images, but every {apart:,} up to where it trained: "
            f"{weights} cannot be had there; train to there, or take a moment that has one"
        )
    if lost := [n for n in range(apart, end, apart) if n not in kept]:  # of fewer, other weights would come
        raise run.corrupt(f"{SNAPSHOTS}/nimg-{lost[0]:010d}", "is not a complete snapshot")
    if len(kept) < LEAST or length * end < apart:
        raise ParamsError(
            f"{run.name} has {len(kept)} snapshots of its averages up to {end:,} images, {apart:,} apart: {weights} needs at least "
            f"{LEAST}, not farther apart than {length * end:,.0f}; take a longer average or a later time, or train with a larger train.snapshots"
        )

    def make(aside: Path) -> None:
        names = [name for name in run.params.train.tracks if name.startswith("power-")]
        profiles = [(n / end, exponent(length_of(name))) for n in kept for name in names]
        shares, total = iter(combination(profiles, (1.0, exponent(length)))), {}
        for path in kept.values():
            tensors, _ = checkpoint.load(path, remedy=f"put it back, or delete {run.owner} and run again")
            for name in names:
                share = next(shares)
                for key, weight in tensors[name].items():
                    total[key] = total.get(key, 0) + share * weight.float()
        net = models.build(run.params)
        net.load_state_dict(total, strict=False)
        net.save_pretrained(aside)

    return artifact(run.path / "reconstructed", weights, {"weights": weights, "at": end}, make)

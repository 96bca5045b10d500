"""A trained run as an object for scripts and notebooks of one's own: what `guidebook.open` returns. Torch is imported where it samples."""

from os import PathLike
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from guidebook.conditioning.captions import words
from guidebook.config import params as P
from guidebook.config.paths import runs
from guidebook.runs import run as R
from guidebook.sampling.sets import mosaic

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

NESTED = ("draw", "influence", "draws", "again")  # fields of records that are no numbers or words
SEEDS = 2**32


class Samples(list):
    """PIL images; a notebook shows them side by side."""

    def __init__(self, pixels: np.ndarray):  # (N, C, H, W) uint8
        super().__init__(Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels.transpose(0, 2, 3, 1))
        self.pixels = pixels

    def sheet(self, columns: int = 10) -> Image.Image:
        """One image of them all, row by row, small ones enlarged."""
        return Image.fromarray(mosaic(self.pixels, min(columns, len(self))))

    def _repr_png_(self) -> bytes:
        return self.sheet()._repr_png_()


class TrainedRun:
    """A run that is trained to its end, or the record of one: its parameters, its samples, its numbers."""

    def __init__(self, run: R.Run):
        self.run, self.name, self.path, self.params = run, run.name, run.path, run.params

    def __repr__(self) -> str:
        return f"<{self.name}{', a record without weights' if self.run.recorded else ''}: {self.path}>"

    @property
    def variants(self) -> "dict[str, TrainedRun]":
        """Its variants by name: the same training with some parameters changed, or with another seed."""
        found = [R.opened(file.parent) for file in sorted(self.path.glob("variants/*/params.yml"))]
        return {run.name.partition(" · ")[2]: TrainedRun(run) for run in found if run.trained}

    @property
    def words(self) -> list[str]:
        """The words of the captions it was trained with. With the stand-in text encoder there are no others."""
        return words(self.params)

    def sample(self, prompt: "ArrayLike", guidance: "ArrayLike" = 1.0, seed: "ArrayLike" = 0) -> Samples:
        """PIL images of prompts of one's own, drawn as the run's own samples are, and kept nowhere.

        Each of the three is one value or several, in the shapes that numpy broadcasts: an image for each combination, row by row.
        `guidance` is w: 1 is off, 0 unconditional. The noise of seed i is that of the study's image number i, at any w and on every
        device. Raises ValueError for words without meaning to the run and for what is no seed or scale, NotRecorded for a record.
        """
        prompts, scales, seeds = (x.ravel().tolist() for x in np.broadcast_arrays(prompt, guidance, seed))
        if wrong := [s for s in seeds if type(s) is not int or not 0 <= s < SEEDS]:
            raise ValueError(f"seed = {wrong[0]!r:.40}: it is a whole number from 0 to 2³² − 1")
        draw_now = resolve_name("guidebook.sampling.sampler:draw_now")
        return Samples(draw_now(self.run, prompts, scales, seeds).numpy())

    def records(self) -> "pd.DataFrame":
        """Every number that was measured, of the run and its variants (`run`), one a row: `metric`, `value`, 95 % interval `low` to `high`, …

        The chapter "How to read" describes the fields; of those of `draw` there are `sampler`, `steps`, `way`, `prompt`.
        """
        import pandas as pd

        return pd.DataFrame([_row(of, r) for of in (self, *self.variants.values()) for r in of.run.metrics()])


def _row(of: TrainedRun, record: dict) -> dict:
    draw = record["draw"] or {}
    solver, way = draw.get("solver", {}), draw.get("guidance", {}).get("combine", "linear" if draw else None)
    drawn = {"sampler": solver.get("sampler"), "steps": solver.get("steps"), "way": way, "prompt": draw.get("prompt")}
    return {"run": of.name, **{k: v for k, v in record.items() if k not in NESTED}, **drawn}


def find(name: str | PathLike) -> R.Run:
    """The trained run in a folder, or the newest one of `EXPERIMENT/PROFILE`, else its record. Raises ParamsError."""
    experiment, slash, profile = str(name).partition("/")
    if (Path(name) / "params.yml").is_file():
        if not (run := R.opened(Path(name))).trained:
            raise P.ParamsError(f"{run.name} in {name} is not trained to its end: run it again, it goes on")
        return run
    if not (experiment and slash):
        raise P.ParamsError(
            f"{str(name)[:60]!r} is no folder of a run: write EXPERIMENT/PROFILE, as mnist/demo, or a folder"
        )
    live = sorted(runs().glob(f"{experiment}/{profile}-????????/model"), key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in (*(model.parent for model in live), R.RESULTS / experiment / profile):
        if (folder / "params.yml").is_file():
            return R.opened(folder)
    P.load(experiment, profile)  # a name that there is not says the nearest
    raise P.ParamsError(f"no run of {name} is trained yet: guidebook run {experiment} --profile {profile}")

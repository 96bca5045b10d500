"""A part of a published data set that is trained on by intent: how much of it there is. Nothing here imports torch."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from guidebook.config.datasets import CATALOG, Entry
from guidebook.config.errors import nearest, shown
from guidebook.config.section import Section, Tuple


class Subset(Section):
    """The rows and classes of a set that parquet files of its layout hold. Training refuses files that hold others."""

    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")] | None = None  # None is the set's name
    train: Annotated[int, Field(ge=1)]  # rows; of a streamed set those that are not held out
    test: Annotated[int, Field(ge=1)] | None = None  # None for a streamed set, of which every tenth row is held out
    classes: Annotated[tuple[str, ...], Tuple(2, 1000)] | None = (
        None  # the only ones that occur; None is all of the set
    )

    def entry(self, name: str) -> Entry:
        """The catalog's entry for this part of the set `name`."""
        published, classes = CATALOG[name], self.classes
        test = self.test or self.train // 9
        few = f", {len(classes)} of its {len(published.classes)} classes" if classes else ""
        note = (
            f"a subset of {name}: {self.train:,} training images, {percent(self.train, published.train)} of the published "
            f"{published.train:,}{few}, and {test:,} test images, in a split of its own{published.mixed}"
        )
        numbers = classes and tuple(map(published.classes.index, classes))
        rows = {"train": self.train, "test": test}
        return replace(published, **rows, classes=classes or published.classes, numbers=numbers, note=note)

    def misfits(self, name: str) -> Iterator[str]:
        """Why this cannot be a part of the set `name`."""
        published = CATALOG[name]
        if published.stand_in is None:
            yield f"data.subset is for files, and data.name = {name} is made by code: set data.limit"
        if bool(self.test) == bool(published.window):
            rule = "is not taken, as every tenth row is held out," if self.test else "is missing"
            yield f"data.subset.test {rule} for data.name = {name}"
        if self.train > published.train:
            yield f"data.subset.train = {self.train} is more than the published {published.train}"
        if self.classes and published.attributes:
            yield f"data.subset.classes are not for data.name = {name}, which has attributes"
        for one in self.classes or ():
            if one not in published.classes or self.classes.count(one) > 1:
                near = nearest(one, list(published.classes))
                yield f"data.subset.classes: {shown(one)} is no class of {name}, or is named twice{near}"


def percent(rows: float, published: float) -> str:
    """A share in per cent, of two digits."""
    return f"{float(f'{100 * rows / published:.2g}'):g} %"

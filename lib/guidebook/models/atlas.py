"""The atlas: sizes and costs that documents state beside those counted of the networks they describe; rows are `book/atlas.yml`."""

import itertools
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from guidebook.config.errors import ParamsError, nearest, plain, shown
from guidebook.config.params import check, digest, load
from guidebook.config.paths import BOOK
from guidebook.config.schema import Line, Positive, Section, Share, Tuple, Word
from guidebook.config.yamlfile import read
from guidebook.models import published
from guidebook.models.published import FORWARD, NETWORKS, Measured

FILE = BOOK / "atlas.yml"
Source = Annotated[str, Field(pattern=r"^[a-z0-9]+$")]  # a key of references.bib
Many = Annotated[int, Field(ge=1, le=10**6)]


def number(value: float) -> str:
    """A number in words: `2.57 billion`, `860 million`, `145.7`."""
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.4g}{name}"
    return f"{value:.4g}"


class Stated(Section):
    """A number that a document states, or none, and how far from it what is counted may be."""

    id: Word
    says: Line  # what it is the number of
    source: Source
    where: Line
    stated: Positive | None = None
    upto: Positive | None = None  # the other end, where a range is stated
    tolerance: Share | None = None  # relative

    def conflicts(self):
        if (self.stated is None) != (self.tolerance is None):
            yield f"{self.id}: stated and tolerance go together"
        if self.upto is not None and (self.stated is None or self.stated >= self.upto):
            yield f"{self.id}: upto must be above stated"

    def verdict(self, found: float) -> str:
        """The verdict: is the count within the tolerance of the stated number? Empty where none is stated."""
        if self.stated is None:
            return ""
        end = self.upto or self.stated
        if self.stated * (1 - self.tolerance) <= found <= end * (1 + self.tolerance):
            return "holds"
        times = found / (self.stated if found < self.stated else end)
        return f"does not hold: it is {times:.3g} times the stated number"


class Forward(Section):
    side: Many  # of the input, in pixels or in places of a latent
    tokens: Many = 77


class Counted(Stated):
    """A number of one network, given by a class and its configuration, by a params file, or as a change of a row above."""

    base: Word | None = None
    network: str | None = None
    params: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")] | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)  # with a base, the keys that differ
    forward: Forward | None = None
    unit: Literal["parameters", "GMAC", "pixels", "downsampling"] = "parameters"
    tables: bool = False  # the source counts fixed tables too, such as positions

    def conflicts(self):
        yield from super().conflicts()
        if sum(x is not None for x in (self.base, self.network, self.params)) != 1:
            yield f"{self.id}: give one of base, network and params"
        if self.network is not None and self.network not in NETWORKS:
            near = nearest(self.network, list(NETWORKS))
            yield f"{self.id}: network = {shown(self.network)} is not known{near}; there are: {', '.join(NETWORKS)}"

    def over(self, base: "Counted") -> "Counted":
        """This row with the network of its base."""
        given = {"base": None, "network": base.network, "params": base.params, "config": {**base.config, **self.config}}
        return self.model_copy(update={**given, "forward": self.forward or base.forward})

    @property
    def ran(self) -> dict[str, int]:
        """The forward that is run for this number; none for its parameters."""
        return self.forward.model_dump() if self.forward and self.unit == "GMAC" else {}

    @property
    def key(self) -> str:
        """The same for rows of one network and one forward."""
        return self.params or digest([self.network, self.config, self.ran])

    def measure(self, **forward: int) -> Measured:
        """The cost of its network, with its own forward or another. Raises ParamsError where its class does not take its configuration."""
        if self.params:
            return published.cost(load(*self.params.split("/")))
        try:
            return published.measure(self.network, self.config, **(forward or self.ran))
        except (TypeError, ValueError) as error:
            raise ParamsError(f"{FILE.name}: {self.id}: {plain(error)[:300]}") from None

    def found(self, of: Measured) -> float:
        """The number itself."""
        if self.unit == "pixels":
            return load(*self.params.split("/")).data.resolution
        if self.unit == "GMAC":
            return of.total / 1e9
        return of.coarsest if self.unit == "downsampling" else of.parameters + (of.tables if self.tables else 0)

    def words(self, found: float) -> str:
        digits = f"{found:.4g}" if self.unit == "GMAC" else f"{found:,.0f}"
        return f"{self.says}: {digits}" + (f" {self.unit}" if self.unit in ("parameters", "GMAC") else "")


class Derived(Stated):
    """A number of several rows: a ratio, a sum, or whether they rise in the order in which they are named."""

    kind: Literal["ratio", "sum", "order"]
    of: Annotated[tuple[Word, ...], Tuple(2, 9)]

    def conflicts(self):
        yield from super().conflicts()
        if (self.kind == "order") != (self.stated is None) or (self.kind == "ratio" and len(self.of) != 2):
            yield f"{self.id}: a ratio is of two rows; an order states no number, the others do"

    def answer(self, values: list[float]) -> tuple[str, str]:
        """The finding in words, and the verdict."""
        if self.kind == "order":
            rises = all(a < b for a, b in itertools.pairwise(values))
            return ", ".join(map(number, values)), "holds" if rises else "does not hold: they do not rise in this order"
        value = sum(values) if self.kind == "sum" else values[0] / values[1]
        return f"{number(value)}, of {' and '.join(map(number, values))}", self.verdict(value)


class Law(Stated):
    """The power of the input's side with which a part of a forward's multiply-adds grows."""

    of: Word
    part: Literal["convolutions", "linear layers", "self-attention", "cross-attention"]
    sides: Annotated[tuple[Many, ...], Tuple(2, 9)]

    def answer(self, at: list[Measured]) -> tuple[float, str]:
        """The power, between the two sides where it is farthest from the stated one, and the verdict."""
        points = zip((m.macs[self.part] for m in at), self.sides, strict=True)
        powers = [math.log(b / a) / math.log(t / s) for (a, s), (b, t) in itertools.pairwise(points)]
        power = max(powers, key=lambda p: abs(p - (self.stated or 0)))
        return power, self.verdict(power)


class Open(Section):
    """Numbers that wait for their network."""

    system: Line
    says: Line
    source: Source
    why: Line


class Atlas(Section):
    counts: Annotated[tuple[Counted, ...], Tuple(1, 1000)]
    derived: Annotated[tuple[Derived, ...], Tuple(0, 1000)] = ()
    laws: Annotated[tuple[Law, ...], Tuple(0, 100)] = ()
    open: Annotated[tuple[Open, ...], Tuple(0, 100)] = ()

    def conflicts(self):
        ids = [row.id for row in (*self.counts, *self.derived, *self.laws)]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            yield f"{twice} stand twice"
        for i, row in enumerate(self.counts):
            above = ids[:i]
            if row.base is not None and row.base not in above:
                yield f"{row.id}: base = {shown(row.base)} is no row above it{nearest(row.base, above)}"
        rows = self.resolved()
        for row in rows.values():
            if row.unit == "GMAC" and not row.params and not (row.forward and row.network in FORWARD):
                yield f"{row.id}: GMAC needs a forward, and one of the networks {', '.join(FORWARD)}"
            if row.unit == "pixels" and not row.params:
                yield f"{row.id}: pixels are read in a params file"
            if row.params and (row.config or row.forward):
                yield f"{row.id}: {row.params} has its configuration and its forward: give neither"
        for row in (*self.derived, *self.laws):
            of = row.of if isinstance(row, Derived) else (row.of,)
            if missing := [i for i in of if i not in rows]:
                yield f"{row.id}: of = {shown(missing[0])} is none of the counts{nearest(missing[0], list(rows))}"
            elif len({rows[i].unit for i in of}) > 1:
                yield f"{row.id}: of names numbers of unlike units"

    def resolved(self) -> dict[str, Counted]:
        """The counts by id, each with its whole configuration."""
        rows: dict[str, Counted] = {}
        for row in self.counts:
            rows[row.id] = row.over(rows[row.base]) if row.base else row
        return rows


def load_atlas(path: Path = FILE) -> Atlas:
    """Raises ParamsError."""
    return check(read(path), path.name, Atlas)

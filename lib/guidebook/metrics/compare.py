"""Verdicts: whether one kind of images scores above another, by the interval of the difference between two metric records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guidebook.metrics.difference import ALPHA, Records, difference
from guidebook.metrics.intervals import Interval

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Verdict:
    """The answer to a claim, and what it rests on."""

    outcome: str  # HOLDS, FAILS or UNDECIDED
    interval: Interval | None  # of the difference that decides, at the level at which it does; None: not measured
    trainings: int
    p: float | None = None  # the least level at which it decides so, 1 where it does not; None: not measured
    of: str = ""  # the metric that differs
    sides: tuple[str, ...] = ()  # what is compared, the first less the second, where records say it

    def opposite(self) -> "Verdict":
        """The answer to the claim that says the reverse."""
        outcome = {HOLDS: FAILS, FAILS: HOLDS}.get(self.outcome, UNDECIDED)
        value, low, high = self.interval or (0.0, 0.0, 0.0)
        return replace(
            self, outcome=outcome, interval=self.interval and Interval(-value, -high, -low), sides=self.sides[::-1]
        )


def above(*pairs: tuple[Records, Records], differ: Sequence[str] = (), training: bool = False) -> Verdict:
    """The outcome of a claim that in every pair the first has the larger value; it has not where in one of them it is below (Bonferroni).

    A side is a record, or one of each training, or a number that a record is held against. `differ` names the fields of the draw that
    the claim is about, `training` says that the claim is about how models train. Raises NotComparable.
    """
    if not pairs or any(side is None for pair in pairs for side in pair):
        return Verdict(UNDECIDED, None, 0)
    found = [difference(a, b, differ, training) for a, b in pairs]
    weak, bad = ([d.interval(level) for d in found] for level in (ALPHA, ALPHA / len(found)))
    weakest = min(range(len(found)), key=lambda i: weak[i][1])
    worst = min(range(len(found)), key=lambda i: bad[i][2])
    if weak[weakest][1] > 0:
        outcome, i, shown, p = HOLDS, weakest, weak, max(d.p() for d in found)
    elif bad[worst][2] < 0:
        outcome, i, shown, p = FAILS, worst, bad, len(found) * min(d.p() for d in found if d.value < 0)
    else:  # what keeps it from holding, where that reaches above zero
        outcome, p = UNDECIDED, 1.0
        i, shown = (weakest, weak) if weak[weakest][2] >= 0 else (worst, bad)
    return Verdict(outcome, shown[i], found[i].trainings, p, _metric(*pairs[i]), _sides(*pairs[i]))


def least(inside: Sequence[Records], outside: Sequence[Records], differ: Sequence[str] = ()) -> Verdict:
    """The outcome of a claim that one of the records inside is below all those outside; it is not where one outside is below all those inside.

    Which one is not said beforehand, so each is tried at its share of the level. Raises NotComparable.
    """
    if not (inside and outside) or None in (*inside, *outside):
        return Verdict(UNDECIDED, None, 0)
    best, decided, of = None, [], _metric(*inside)
    for outcome, mine, others in ((HOLDS, inside, outside), (FAILS, outside, inside)):
        for one in mine:
            found = [difference(other, one, differ) for other in others]
            nearest = min((d.interval(ALPHA / len(mine)) for d in found), key=lambda i: i[1])
            if nearest[1] > 0:
                verdict = Verdict(HOLDS, nearest, 1, len(mine) * max(d.p() for d in found), of)
                decided.append(verdict if outcome == HOLDS else verdict.opposite())
            best = nearest if outcome == HOLDS and (best is None or nearest[1] > best[1]) else best
    return min(decided, key=lambda v: v.p, default=Verdict(UNDECIDED, best, 1, 1.0, of))


def _metric(*sides: Records) -> str:
    """The metric of the first record among these."""
    records = [side if isinstance(side, dict) else side[0] for side in sides if not isinstance(side, float)]
    return records[0].get("metric", "") if records else ""


def _sides(*pair: Records) -> tuple[str, ...]:
    """Names of the two sides of a comparison, by weights, guidance or a bound; none where they differ in something else."""
    sides = [side if isinstance(side, dict | float) else side[0] for side in pair]
    if float in map(type, sides):
        return tuple(f"{side:g}" if isinstance(side, float) else "what was found" for side in sides)
    kinds = [((side.get("draw") or {}).get("weights"), side.get("guidance")) for side in sides]
    which = [a != b for a, b in zip(*kinds, strict=True)]
    if not any(which) or None in (of[1] for of in kinds):
        return ()
    said = [
        " at ".join(w for w, differs in zip((of[0], f"w = {of[1]:g}"), which, strict=True) if differs) for of in kinds
    ]
    return tuple(
        f"{side['factor']:g} × {words}" if "factor" in side else words for side, words in zip(sides, said, strict=True)
    )


# The truly lowest leaves a set where one of its K − 1 rivals is shown to be below it: by chance α / (K − 1) / cells each
def lowest(
    records: Sequence[Records], differ: Sequence[str] = (), cells: int = 1, alpha: float = ALPHA
) -> list[Records]:
    """The records, or those of several trainings, that may have the lowest value: those that no other is shown to be below.

    In 19 of 20 experiments the truly lowest is among them, in all of `cells` such sets at once (Bonferroni). Raises NotComparable.
    """
    level = 2 * alpha / max(len(records) - 1, 1) / cells  # of an interval with two sides, of which one decides

    def beaten(one: Records) -> bool:
        rivals = (other for other in records if other is not one)
        return any(difference(one, other, differ).interval(level)[1] > 0 for other in rivals)

    return [one for one in records if not beaten(one)]


def moves(cells: Sequence[set]) -> str:
    """The outcome of a claim that the lowest of one cell is another than that of the next, from what is `lowest` in each.

    It is where nothing is in all cells, and is not where each has one alone and it is the same. As all cells hold their truly
    lowest in 19 of 20 experiments, either outcome is wrong in one of 20 at most.
    """
    if len(cells) < 2:
        return UNDECIDED
    if not set.intersection(*cells):
        return HOLDS
    return FAILS if all(len(cell) == 1 for cell in cells) else UNDECIDED


def moved(cells: Sequence[Sequence[Records]], differ: Sequence[str] = ()) -> tuple[str, float]:
    """Outcome of `moves` for what is `lowest` in each cell, of as many records in one order, and the least level that decides so."""
    found = UNDECIDED, 1.0
    for alpha in (ALPHA, 0.02, 0.01, 0.005, 0.002, 0.001, 1e-4):
        may = [lowest(cell, differ, len(cells), alpha) for cell in cells]
        places = [
            {i for i, one in enumerate(cell) if any(one is r for r in of)} for cell, of in zip(cells, may, strict=True)
        ]
        if (outcome := moves(places)) == UNDECIDED or found[0] not in (outcome, UNDECIDED):
            break
        found = outcome, alpha
    return found

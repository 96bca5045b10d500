"""Every row that a notebook answers, by simulation: both outcomes occur, and where there is no effect at most one in twenty decides."""

import ast
import itertools
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from test_compare import record, shares, trainings

from guidebook.config.paths import NOTEBOOKS
from guidebook.metrics.attributes import difference as obedience
from guidebook.metrics.compare import ALPHA, FAILS, HOLDS, UNDECIDED, above, least
from guidebook.metrics.copying import copies, copying, expected
from guidebook.metrics.difference import among, influence
from guidebook.metrics.frechet import frechet_to, gaussian
from guidebook.metrics.intervals import wilson
from guidebook.report import loading
from guidebook.report.claims import Answer, every, together

ROUNDS = 200
LIMIT = 0.05 + 2.6 * (0.05 * 0.95 / ROUNDS) ** 0.5  # one in 200 simulations of an exact test is above it
N, WIDTH = 200, 4
REFERENCE = gaussian(np.random.default_rng(0).normal(size=(4000, WIDTH)))
SCALE = {"differ": ("guidance",)}


def kept(found, **fields) -> dict:
    """A record of an interval."""
    return record([0.0, 1.0]) | {"value": found[0], "low": found[1], "high": found[2], "influence": None} | fields


# Records of sets of one seed, the first of which differ from the next by `steps`


def read(rng, steps) -> list[dict]:
    """Adherence at several scales."""
    return [record(x) for x in shares(rng, N, [0.6 + 0.15 * s for s in steps], 0.6)]


def means(rng, steps) -> list[dict]:
    """Grain, saturation or diversity at several scales."""
    common = rng.normal(size=N)
    return [record(s + common + rng.normal(size=N)) for s in steps]


def distances(rng, steps) -> list[dict]:
    """Fréchet distances at several scales."""
    noise = rng.normal(size=(N, WIDTH))
    sets = [(noise + rng.normal(size=noise.shape)) / 2**0.5 + 0.5 + 0.5 * s for s in steps]
    return [record(f.each, value=f[0]) | {"low": f[1], "high": f[2]} for f in (frechet_to(x, REFERENCE) for x in sets)]


# Rules: (random numbers, effect: 1 for the claim, −1 against it, 0 for none)


def larger(sets, rng, effect):
    """One set above another."""
    return above(tuple(sets(rng, (effect, 0))), **SCALE)


def rising(sets, rng, effect):
    """Each set above the one before."""
    found = sets(rng, [effect * i for i in range(-1, 3)])
    return above(*zip(found[1:], found, strict=False), **SCALE)


def best(sets, rng, effect):
    """One set, named beforehand, below all the others."""
    one, *others = sets(rng, (0, effect, effect, effect))
    return above(*((other, one) for other in others), **SCALE)


def grainier(rng, effect):
    """Among the images that are read rightly in both sets."""
    right = [influence(r) for r in read(rng, (0, 0))]
    return above(tuple(among(r, (right[0] > 0) & (right[1] > 0)) for r in means(rng, (effect, 0))), **SCALE)


def two_diversities(rng, effect):
    found = means(rng, (0, -effect, -2 * effect)), means(rng, (0, -effect, -2 * effect))
    return above(*((a, b) for each in found for a, b in itertools.pairwise(each)), **SCALE)


def inside(within, rng, effect):
    """The best of several, some of which are meant."""
    found = distances(rng, [0 if effect >= 0 else -effect] * within + [max(effect, 0)] * 3)
    return least(found[:within], found[within:], **SCALE)


def trained(rng, effect):
    return above(trainings(rng, 3.0 * effect, 0.3), training=True)


def below_half(rng, effect):
    """Confidence below a number."""
    return above((0.0, record(rng.normal(-effect, size=N))))


def as_far(rng, effect):
    """All distances above a number, that of the nearest."""
    found = distances(rng, (effect,) * 5)
    mean = 0.25 * WIDTH + (WIDTH + WIDTH * (WIDTH + 1) / 4) / N  # and the bias of n images, Gaussian
    return above(*((r, mean) for r in found))


def ranks(rng, effect):
    """Shares of draws by independent bodies, against 95 %."""
    shares_ = rng.binomial(100, rng.beta(*((95, 5), (999, 1), (20, 80))[effect], size=10)) / 100
    return replace(above(([{"value": s} for s in shares_], 0.95)), trainings=1)


def biased(rng, effect):
    """A distance of real images below a twentieth of that of samples; the two have no noise in common."""
    own, short = (record(rng.normal(m, size=N), draw=None) for m in (5.0 - effect, 100.0))
    return above((short | {key: short[key] / 20 for key in ("value", "low", "high")}, own))


def faster(rng, effect):
    """One of several fast runs nearer to the data."""
    slow, *fast = distances(rng, (1, 1 - effect, 1 - effect, 1 - effect))
    return above(*((run, slow) for run in fast), **SCALE).opposite()


def captions(rng, effect):
    """Attributes seen oftener where they are asked for: one may be ignored (0), or nearly (−0.5: by the bound of 0.1)."""
    odds = [0.3 + {1: 0.4, 0: 0.0, -0.5: 0.1, -1: 0.0}[effect]] + [0.7 if effect != -0.5 else 0.4] * 5
    found = [kept(obedience(wilson(int(rng.binomial(N, p)), N), wilson(int(rng.binomial(N, 0.3)), N))) for p in odds]
    heard, spoken = (above(*((r, bound) for r in found)) for bound in (0.0, 0.1))
    return spoken if spoken.outcome == FAILS else heard


def repeated(rng, effect):
    """Copies among samples: as often as among unseen images (1 %), at the bound of 5 %, or often."""
    odds = {1: 0.005, 0: 0.05, -0.5: 0.01, -1: 0.5}[effect]
    unseen, own = rng.uniform(1, 2, 1000), rng.uniform(1, 2, 500)
    own = np.where(rng.random(500) < odds, 0.5, np.maximum(own, 1.02)) if effect != -0.5 else own
    most, copied, same = expected(1000), kept(copying(own, unseen)), kept(copies(own, unseen))
    repeats, new = above((most, same)), above((0.6, copied), (0.05, same))
    return repeats if repeats.outcome == FAILS else new if new.outcome == HOLDS else replace(new, outcome=UNDECIDED)


def waiting(rng, effect):
    lines = [{"data": d, "rest": 29.6} for d in rng.normal(70.4 + 20 * effect, 3, size=40)]
    stats = [{"nimg": 10, "ms_by_part": p} for p in lines]
    return loading.data_share(
        SimpleNamespace(stats=lambda: stats, params=SimpleNamespace(train=SimpleNamespace(epochs=0.5)))
    )


def timed(rule, name, bound, direction, rng, effect):
    """A ratio of three repeats, against a number."""
    turns = rng.normal(bound * (1 + 0.8 * direction * effect / (1 + effect**2)), 0.03 * bound, size=3)
    ratio = {"name": name, "value": float(np.median(turns)), "low": min(turns), "high": max(turns), "repeats": 3}
    return rule([{"ratios": [ratio]}])


# Of each claim: the rule of its row, and a name that stands in the row's verdict
ROWS = {
    "mnist-adherence": ("above", partial(larger, read)),
    "mnist-grain": ("above", grainier),
    "mnist-cause": ("above", trained),
    "mnist-best": ("least", partial(inside, 2)),
    "cifar10-quality": ("above", partial(best, distances)),
    "cifar10-accuracy": ("above", partial(rising, read)),
    "cifar10-judge": ("ranked", ranks),
    "cifar10-null": ("above", below_half),
    "cifar10-diversity": ("above", two_diversities),
    "cifar10-fid": ("above", biased),
    "samplers-cosine": ("above", trained),
    "samplers-training": ("above", trained),
    "samplers-ddim": ("above", partial(larger, distances)),
    "samplers-time": ("farther", faster),
    "celeba-guidance": ("least", partial(inside, 3)),
    "celeba-saturation": ("above", partial(larger, means)),
    "celeba-captions": ("spoken", captions),
    "imagenet100-fid": ("above", as_far),
    "imagenet100-training": ("above", trained),
    "wikiart-loading": ("loading.data_share", waiting),
    "wikiart-sequential": ("loading.sequential", partial(timed, loading.sequential, "file after file", 20, 1)),
    "wikiart-batch": ("loading.batch_growth", partial(timed, loading.batch_growth, "step", 1.2, -1)),
    "wikiart-new": ("repeats", repeated),
}
BOTH = {HOLDS, FAILS}
# Of rows with a bound for each outcome: where it must seldom come out
EDGES = {row: [(0, {HOLDS}), (-0.5, {FAILS})] for row in ("celeba-captions", "wikiart-new")}


def verdicts_of_notebooks() -> dict[str, str]:
    """The expression of the verdict in each row of every notebook's `Answers`."""
    cells = [c for n in NOTEBOOKS.glob("*.ipynb") for c in json.loads(n.read_text())["cells"]]
    sources = [text for c in cells if "Answers(" in (text := "".join(c["source"])) and c["cell_type"] == "code"]
    rows = [n for s in sources for n in ast.walk(ast.parse(s)) if isinstance(n, ast.Tuple) and n.elts]
    return {n.elts[0].value: ast.unparse(n.elts[-1]) for n in rows if getattr(n.elts[0], "value", None) in every()}


def outcome(found) -> str:
    """Of a verdict, or of what a page on loading gives."""
    return found.outcome if hasattr(found, "outcome") else found[1][0]


def test_every_row_of_every_notebook_has_its_simulation_here():
    found = verdicts_of_notebooks()
    assert set(found) == set(ROWS)
    assert [row for row, (name, _) in ROWS.items() if name not in found[row]] == []


@pytest.mark.parametrize("row", ROWS)
def test_a_row_holds_and_does_not_hold_and_decides_seldom_where_there_is_no_effect(row):
    rng, rule = np.random.default_rng(1), ROWS[row][1]
    for effect, expected_ in ((1, HOLDS), (-1, FAILS)):
        assert expected_ in {outcome(rule(rng, effect)) for _ in range(5)}
    for effect, wrong in EDGES.get(row, [(0, BOTH)]):
        outcomes = [outcome(rule(rng, effect)) for _ in range(ROUNDS)]
        assert sum(o in wrong for o in outcomes) / ROUNDS <= LIMIT


def answer(verdict, claim="mnist-adherence"):
    return Answer(claim, "", verdict.outcome, p=verdict.p)


@pytest.mark.parametrize("pages", [2, 5])
def test_several_pages_decide_no_oftener_than_one(pages):
    rng = np.random.default_rng(2)
    alone, shared = [], []
    for _ in range(ROUNDS):
        found = [answer(larger(means, rng, 0)) for _ in range(pages)]
        alone.append(any(a.verdict in BOTH for a in found))
        shared.append(together(found) in BOTH)
    assert np.mean(shared) <= LIMIT < np.mean(alone) + (pages < 5)


def test_several_pages_hold_and_do_not_hold_together():
    rng = np.random.default_rng(3)
    found = {e: answer(larger(means, rng, e)) for e in (1, 0, -1)}
    assert together([found[1], found[0]]) == HOLDS
    assert together([found[-1], found[0], found[-1]]) == FAILS
    assert together([found[1], found[-1]]) == UNDECIDED


@pytest.mark.parametrize("effect", [0.1, 0.3, -0.2])
def test_p_is_the_level_at_which_a_verdict_begins_to_decide(effect):
    rng = np.random.default_rng(4)
    a, b = means(rng, (effect, 0))
    verdict = above((a, b), **SCALE)
    from guidebook.metrics.difference import difference

    p, gap = difference(a, b).p(), difference(a, b)
    assert gap.interval(p * 1.01)[1] > 0 or gap.interval(p * 1.01)[2] < 0
    assert gap.interval(p * 0.98)[1] < 0 < gap.interval(p * 0.98)[2]
    assert verdict.p == (pytest.approx(p) if p <= ALPHA else 1.0)

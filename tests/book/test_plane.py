"""The plane of guidance: its JavaScript walks as the library does, and what its page shows are those numbers."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from guidebook.book import pages
from guidebook.config.sampling import Guidance, Solver
from guidebook.diffusion.guidance import Pair, between, guide
from guidebook.diffusion.objective import edm
from guidebook.diffusion.solvers import SOLVERS, times
from guidebook.sampling.spec import Draw

ROOT = Path(__file__).parents[2]

PATH = edm(sigma_data=1.0, largest=20.0)
PLACES = [[1.56, -0.9], [0.4, 0.35], [-1.55, -0.55], [-0.35, -1], [-0.55, 1], [0.65, 1.3]]
BLOBS = torch.tensor(PLACES, dtype=torch.float64)
CAPTION, SD, WORSE = BLOBS[:2], 0.3, 0.6
WAYS = {
    "linear": {}, "rescaled": {"phi": 0.7}, "cfg-plus-plus": {}, "projected": {"eta": 0.0, "norm": 0.5, "momentum": -0.5},
    "autoguidance": {},
}  # fmt: skip
ALL = 1e4  # the upper end of an interval that has none


def lift(points: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, 2, 2) of points (N, 2): as long as they are, with pixels whose mean is 0."""
    return torch.cat([points, -points], 1).reshape(-1, 1, 2, 2) / 2**0.5


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :2] * 2**0.5


def log_density(points: torch.Tensor, blobs: torch.Tensor, variance: float) -> torch.Tensor:
    """log p (N,) of points (N, 2) in blobs of one variance and equal weight."""
    each = torch.distributions.Normal(blobs, variance**0.5)
    return each.log_prob(points[:, None]).sum(-1).logsumexp(1) - math.log(len(blobs))


class Exact:
    """The best possible denoiser of images in blobs, from the score of their noisy density, and a count of its answers."""

    def __init__(self, blobs, sd):
        self.blobs, self.sd, self.asked = blobs, sd, 0

    def __call__(self, x, t):
        self.asked += 1
        with torch.enable_grad():
            points = flat(x).requires_grad_()
            density = log_density(points, self.blobs, self.sd**2 + t.item() ** 2)
            (score,) = torch.autograd.grad(density.sum(), points)
        eps = -t * lift(score)
        return x - t * eps, eps


def library(case: dict, start: torch.Tensor, fresh: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """States (steps + 1, each (N, 2)) and answers of networks of a setting of the page, by the library."""
    good, bad = Exact(CAPTION, SD), Exact(CAPTION, WORSE) if case["way"] == "autoguidance" else Exact(BLOBS, SD)
    pair = Pair(good, bad, lambda x, t: (good(x, t), bad(x, t)), PATH)
    way = "linear" if case["way"] == "autoguidance" else case["way"]
    guided = guide(pair, Guidance(combine=way, w=case["w"], between=(case["low"], case["high"]), **WAYS[way]), None)
    solver = Solver(sampler=case["solver"], steps=case["steps"], eta=case["eta"], spacing="karras")
    noise = iter(fresh)
    walk = SOLVERS[solver.sampler](
        guided, PATH.std * lift(start), times(PATH, solver), PATH, noise=lambda: lift(next(noise)), eta=solver.eta
    )
    return [PATH.std * start, *(flat(x) for _, x in walk)], good.asked + bad.asked


@pytest.fixture(scope="module")
def page(browser):
    """The chapter's scripts with a place for the plane."""
    page, style = browser.new_page(viewport={"width": 1280, "height": 900}), ROOT / "book/_static/custom.css"
    page.set_content(f"<style>{style.read_text()}</style><div class='plane' id='plane'></div>")
    for name in ("solvers", "plane-maths", "plane"):
        page.add_script_tag(path=ROOT / f"book/_assets/js/{name}.js")
    yield page
    page.close()


def ask(page, expression: str, given=None):
    return page.evaluate(f"(given) => {{ const arrays = (x) => Array.from(x); return {expression}; }}", given)


def points(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)


CASES = [
    {"way": way, "solver": solver, "eta": eta, "steps": steps, "w": w, "low": low, "high": high}
    for way, (solver, eta), (steps, w), (low, high) in itertools.product(
        WAYS,
        [("ddim", 0.0), ("ddim", 0.4), ("ddim", 1.0), ("heun", 0.0), ("dpmpp-2m", 0.0)],
        [(1, 3.0), (2, 0.5), (7, 0.0), (12, 1.0), (12, 3.0), (30, 10.0)],
        [(0.0, ALL), (0.11, 0.77)],
    )
    if not (way == "cfg-plus-plus" and (solver, eta) != ("ddim", 0.0)) and (way, solver) != ("projected", "heun")
]


def test_states_of_whole_walks_are_the_librarys(page):
    """Every solver, way, scale, interval and number of steps that go together: each coordinate of each state, to 1e-6."""
    rng = torch.Generator().manual_seed(0)
    fresh = [torch.randn(24, 2, generator=rng, dtype=torch.float64) for _ in range(31)]
    given = {"cases": CASES, "noise": [x.flatten().tolist() for x in fresh]}
    walked = ask(page, """given.cases.map((settings) => {
      const [start, ...more] = given.noise.map((x) => Float64Array.from(x));
      const {states, asked} = guidancePlane.walk(settings, start, () => more.shift());
      return [states.map(arrays), asked];
    })""", given)  # fmt: skip
    assert len(walked) == 240
    for case, (states, asked) in zip(CASES, walked, strict=True):
        expected, answers = library(case, fresh[0], fresh[1:])
        found = torch.stack([points(state) for state in states])
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6, msg=lambda m, c=case: f"{c}: {m}")
        assert asked == answers, case


def measured(cloud: torch.Tensor, weights: torch.Tensor | None = None, side: float = 1e-9) -> dict:
    """The numbers of the page's table, of points (N, 2), or of cells of a side with weights (N,)."""
    weights = torch.ones(len(cloud), dtype=torch.float64) if weights is None else weights
    weights, far = weights / weights.sum(), torch.cdist(cloud, CAPTION)
    caption, all_ = (log_density(cloud, blobs, SD**2) + math.log(len(blobs)) for blobs in (CAPTION, BLOBS))
    mean = weights @ cloud
    return {
        "obeyed": (weights @ (caption - all_).exp()).item(),
        "shares": [weights[far.argmin(1) == k].sum().item() for k in range(len(CAPTION))],
        "outside": (weights @ ((far.min(1).values - 2 * SD) / side + 0.5).clamp(0, 1)).item(),
        "spread": (weights @ (cloud - mean).square().sum(1)).sqrt().item(),
    }


def aimed(case: dict, side: float, cells: int) -> dict:
    """The numbers of the sharpened density, summed over cells × cells squares around the middle."""
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5 - cells / 2) * side
    cloud = torch.cartesian_prod(centres, centres)
    positive = log_density(cloud, CAPTION, SD**2)
    negative = (CAPTION, WORSE**2) if case["way"] == "autoguidance" else (BLOBS, SD**2)
    w = 1.0 if case["way"] == "cfg-plus-plus" else case["w"]
    return measured(cloud, (w * positive + (1 - w) * log_density(cloud, *negative)).exp(), side)


def numbers(of: dict) -> list[float]:
    return [of["obeyed"], *of["shares"], of["outside"], of["spread"]]


SHOWN = {
    "way": "linear",
    "w": 3.0,
    "low": 0.0,
    "high": ALL,
    "solver": "dpmpp-2m",
    "steps": 30,
    "eta": 0.0,
}  # as the page opens
TABLES = [
    SHOWN, {"w": 0.0}, {"w": 1.0}, {"w": 10.0}, {"way": "autoguidance"}, {"way": "autoguidance", "w": 0.0}, {"high": 0.502},
    {"way": "cfg-plus-plus", "w": 0.6, "solver": "ddim"}, {"way": "projected"}, {"way": "rescaled", "solver": "heun"},
]  # fmt: skip


@pytest.mark.parametrize("change", TABLES, ids=str)
def test_numbers_of_samples_and_of_the_sharpened_density_are_the_librarys(page, change):
    case = SHOWN | change
    sampled, said, start = ask(page, """(() => {
      const {sampled, aimed} = guidancePlane.results(given);
      return [sampled, aimed, arrays(guidancePlane.start)];
    })()""", case)  # fmt: skip
    states, _ = library(case, points(start), [])
    assert numbers(sampled) == pytest.approx(numbers(measured(states[-1])), abs=1e-6)
    assert numbers(said) == pytest.approx(numbers(aimed(case, 0.1, 96)), abs=1e-6)
    # Coarse cells lose nothing of what is smooth; of shares with an edge less than the table shows
    fine = aimed(case, 0.02, 600)
    assert [said["obeyed"], said["spread"]] == pytest.approx([fine["obeyed"], fine["spread"]], abs=1e-5)
    assert [*said["shares"], said["outside"]] == pytest.approx([*fine["shares"], fine["outside"]], abs=2e-3)


def test_it_starts_from_a_normal_distribution(page):
    start = points(ask(page, "arrays(guidancePlane.start)"))
    assert start.mean(0).abs().max() < 0.01
    torch.testing.assert_close(start.T.cov(), torch.eye(2, dtype=torch.float64), rtol=0, atol=0.02)
    shares = torch.special.ndtr(start).sort(0).values
    assert (shares - (torch.arange(1000) + 0.5)[:, None] / 1000).abs().max() < 0.01


# The page


def table(page) -> list[list[str]]:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return [row.locator("td").all_inner_texts() for row in page.locator("#plane tbody tr").all()]


def as_shown(of: dict) -> list[str]:
    percents = [f"{100 * x:.0f} %" for x in (of["obeyed"], *of["shares"], of["outside"])]
    return [percents[0], ", ".join(percents[1:3]), percents[3], f"{of['spread']:.2f}"]


def test_controls_lead_to_the_numbers_that_are_shown(page):
    """With the keyboard alone."""
    page.get_by_role("button", name="guidance off").press("Enter")
    page.get_by_label("solver").select_option("ddim")
    page.get_by_label("scale w").press("End")
    page.get_by_role("slider", name="steps").press("Home")
    page.get_by_role("slider", name="steps").press("ArrowRight")
    case = SHOWN | {"w": 10.0, "solver": "ddim", "steps": 3}
    states, answers = library(case, points(ask(page, "arrays(guidancePlane.start)")), [])
    sampled, said = measured(states[-1]), aimed(case, 0.1, 96)
    assert table(page) == [list(row) for row in zip(as_shown(sampled), as_shown(said), strict=True)]
    assert f"{answers} evaluations" in page.locator("#plane").inner_text()
    assert as_shown(said)[0] in page.locator("#plane [aria-live]").inner_text()


def test_it_offers_what_the_library_takes_and_nothing_else(page):
    for way in WAYS:
        page.get_by_label("guidance", exact=True).select_option(way)
        offered = {}
        for option in page.get_by_label("solver").locator("option").all():
            offered[option.get_attribute("value")] = option.is_enabled()
        combine = "linear" if way == "autoguidance" else way
        taken = dict.fromkeys(offered, True)
        for sampler in taken:
            try:
                solver = Solver(sampler=sampler, steps=3, eta=0.0, spacing="karras")
                Draw(n=1, guidance=Guidance(combine=combine, w=1, **WAYS[way]), solver=solver, weights="raw", seed=0)
            except ValidationError:
                taken[sampler] = False
        assert offered == taken
        page.get_by_label("solver").select_option("ddim")
        assert page.get_by_label("fresh noise").is_enabled() == (way != "cfg-plus-plus")
    page.get_by_role("button", name="guidance off").click()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_has_a_name_and_room_for_a_thumb(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for control in page.locator("#plane :is(input, select, button):visible").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert control.evaluate("e => e.tagName === 'BUTTON' ? e.textContent : e.labels[0].textContent")
    assert page.evaluate("() => document.scrollingElement.scrollWidth") <= width
    labels = [canvas.get_attribute("aria-label") for canvas in page.locator("#plane canvas").all()]
    assert len(labels) == 3
    assert all(re.search(r"\d", label) for label in labels)


# Its chapter


def test_what_the_chapter_says_of_the_buttons_is_so(page):
    """Each law of the list "What you should see"."""

    def after(button: str) -> tuple[dict, dict]:
        page.get_by_role("button", name=button, exact=True).click()
        rows = table(page)
        read = [[float(x) for x in re.findall(r"[\d.]+", "  ".join(column))] for column in zip(*rows, strict=True)]
        return [dict(zip(("obeyed", "outer", "inner", "outside", "spread"), column, strict=True)) for column in read]

    sampled, said = after("guidance off")
    assert all(abs(sampled[key] - said[key]) <= 2 for key in said)
    assert said["outside"] == 14
    sampled, lost = after("a blob is lost")
    assert sampled["outer"] > 90
    assert abs(lost["outer"] - said["outer"]) <= 5
    sampled, _ = after("overshoot")
    assert (sampled["outside"], sampled["obeyed"]) == (91, 100)
    sampled, _ = after("late steps only")
    assert (sampled["obeyed"], sampled["outer"]) == (99, 49)
    sampled, _ = after("a worse network")
    assert (sampled["outside"], sampled["outer"]) == (0, 48)
    assert after("CFG++")[0]["outer"] > 90
    sampled, _ = after("fresh noise")
    page.get_by_label("fresh noise").press("Home")
    rows = table(page)
    assert sampled["outside"] < float(rows[2][0].split()[0])
    thirty = float(rows[3][0])
    assert after("few steps")[0]["spread"] == pytest.approx(thirty / 2, abs=0.01)


def test_the_chapter_shows_the_librarys_lines_beside_the_equations():
    text, source = pages.guidance(), (ROOT / "lib/guidebook/diffusion/guidance.py").read_text()
    blocks = re.findall(
        r"```{code-block} python\n:caption: lib/guidebook/diffusion/guidance.py, line (\d+)\n\n(.*?)```", text, re.S
    )
    assert len(blocks) == 6
    for line, code in blocks:
        assert source.splitlines()[int(line) - 1 :][: code.count("\n")] == code.splitlines()
    names = re.findall(r"^def (\w+)", "\n".join(code for _, code in blocks), re.M)
    assert names == ["linear", "between", "good_and_bad", "rescaled", "projected", "cfg_plus_plus"]
    assert "<!--" not in text
    interval = text.index("$$ (interval)")
    assert interval < text.index(f"def {between.__name__}(") < interval + 300

"""Sampling in the page: the browser's images are those of the run's own sampler, and nothing is loaded before a button is pressed."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guidebook.book import live
from guidebook.config.params import load
from guidebook.export import browser as export
from guidebook.runs.run import Run, open_run
from guidebook.runtime.seeds import generator
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw
from guidebook.training.loop import train

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "book/_assets"
DEVIATION = 2  # of 255
HOSTILE = 'A {label} </script><script>window.hacked=1</script> <img src=x onerror="window.hacked=1">'
SOLVERS = ("ddpm", "ddim", "dpmpp-2m", "heun")
pytestmark = pytest.mark.timeout(600)

SMALL = {"train": {"batch": 32, "epochs": 1, "checkpoint_every": 1, "precision": "fp32"}, "data": {"limit": 64}}
STUDIES = {
    "digits": load("mnist", "smoke").replace(**SMALL, sample={"steps": 7}),
    "hostile": load("mnist", "smoke").replace(**SMALL | {"data": {"limit": 64, "caption": HOSTILE}}),
    "objects": load("cifar10", "smoke").replace(**SMALL, sample={"steps": 6, "eta": 0.5}),
    "flow": load("mnist", "smoke").replace(**SMALL, objective={"kind": "flow", "mean": 0.0, "std": 1.0}, sample={"sampler": "heun", "spacing": "trailing"}),
    "edm": load("mnist", "smoke").replace(**SMALL, objective={"kind": "edm", "sigma_data": 0.5, "mean": -1.2, "std": 1.2, "largest": 80.0}, sample={"sampler": "dpmpp-2m", "spacing": "karras"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Run]:
    """Trained runs, each of another path or another kind of image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        found = {}
        for name, params in STUDIES.items():
            found[name] = open_run(params)
            train(found[name])
        yield found


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """A folder with the scripts of a built book."""
    root = tmp_path_factory.mktemp("html")
    shutil.copytree(ASSETS / "js", root / "js")
    shutil.copytree(ASSETS / "vendor/onnxruntime", root / "vendor/onnxruntime")
    return root


class Visit:
    """The part of a run's page, opened from its file: what it asked for and complained about."""

    def __init__(self, browser, book: Path, run: Run, width: int = 1280, before: str = ""):
        text, style = live.sampler(run, "experiments/page", book, True, print), ROOT / "book/_static/custom.css"
        file = book / "experiments" / f"{run.path.name}.html"
        file.parent.mkdir(exist_ok=True)
        html = text[text.index('<div class="live">') :]
        file.write_text(
            f"<!doctype html><meta charset=utf-8><style>* {{ box-sizing: border-box }}{style.read_text()}</style><article class=bd-article>{html}</article>"
        )
        self.page, self.asked, self.complaints = browser.new_page(viewport={"width": width, "height": 844}), [], []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        if before:
            self.page.add_init_script(before)
        self.page.goto(file.as_uri(), wait_until="load")

    def press(self) -> None:
        self.page.locator(".live button").press("Enter")
        self.finished()

    def finished(self) -> None:
        self.page.wait_for_function(
            "() => /steps in|No sample/.test(document.querySelector('.live [role=status]').textContent)"
        )
        assert "No sample" not in self.page.locator(".live [role=status]").text_content()

    def sample(self, prompt: int, w: float, seed: int, steps: int, solver: str) -> np.ndarray:
        """Pixels (C, H, W) of the image that the page draws of these settings."""
        return np.array(self.page.evaluate(DRAWN, [str(x) for x in (prompt, w, seed, steps, solver)])).astype(int)


# Sets the controls, of which the last one starts a sample, and reads the newest canvas when it is done
DRAWN = """async ([prompt, w, seed, steps, solver]) => {
  const place = document.querySelector(".live"), said = place.querySelector("[role=status]");
  const set = (name, value) => (place.querySelector(`[id$="-${name}"]`).value = value);
  said.textContent = "";
  Object.entries({prompt, w, seed, steps, solver}).forEach(([name, value]) => set(name, value));
  place.querySelector("[id$='-solver']").dispatchEvent(new Event("input"));
  while (!said.textContent) await new Promise((done) => setTimeout(done, 5));
  if (!/steps in/.test(said.textContent)) throw new Error(said.textContent);
  const canvas = place.querySelector(".live-kept canvas"), n = canvas.width;
  const {data} = canvas.getContext("2d").getImageData(0, 0, n, n), rows = [...Array(n).keys()];
  return [0, 1, 2].map((c) => rows.map((y) => rows.map((x) => data[4 * (y * n + x) + c])));
}"""


class Library:
    """The run's own sampler."""

    def __init__(self, run: Run):
        self.run, self.sampler = run, Sampler(run, Draw.of(run.params, 1.0, 1))
        self.captions = json.loads((export.exported(run) / export.PAGE).read_text())["prompts"]

    def __call__(self, prompt: int, w: float, seed: int, steps: int, solver: str) -> np.ndarray:
        own = self.run.params.sample.solver
        noise = {} if solver == own.sampler else {"eta": 0.0, "v": 0.0}
        taken = own.model_copy(update={"sampler": solver, "steps": steps} | noise)
        self.sampler.draw = Draw.of(self.run.params, w, 1, solver=taken)
        *_, (_, x) = self.sampler.steps(torch.tensor([seed]), [self.captions[prompt]])
        return np.broadcast_to(self.sampler.images(x)[0].numpy(), (3, *x.shape[2:])).astype(int)


@pytest.mark.parametrize("name", ["digits", "objects", "flow", "edm"])
def test_images_of_the_page_are_those_of_the_run(name, studies, browser, book):
    """Every solver, several numbers of steps, scales, prompts and seeds."""
    library, visit = Library(studies[name]), Visit(browser, book, studies[name])
    visit.press()
    settings = [(3.0, 0, studies[name].params.sample.steps), (0.0, 1, 5), (1.0, 4_294_967_295, 10), (7.5, 422, 20)]
    cases = [(i, *values, solver) for i, values in enumerate(settings, 3) for solver in SOLVERS]
    worst = {case: np.abs(visit.sample(*case) - library(*case)).max() for case in cases}
    assert max(worst.values()) <= DEVIATION, worst
    assert visit.complaints == []
    visit.page.close()


def test_noise_is_that_of_torchs_generators(browser):
    page, cases = (
        browser.new_page(),
        [
            (str(seed), i, n)
            for seed in (0, 422, 2**63 - 1)
            for i in (0, 1, 99, 2**32 - 1)
            for n in (16, 64, 75, 432, 3072)
        ],
    )
    page.add_script_tag(path=ASSETS / "js/noise.js")
    drawn = page.evaluate("""(cases) => cases.map(([seed, i, n]) => {
      const draw = studyNoise(seed, i, n);
      return [Array.from(draw()), Array.from(draw())];
    })""", cases)  # fmt: skip
    for (seed, i, n), found in zip(cases, drawn, strict=True):
        rng = generator((int(seed) << 32) + i, "image")
        expected = [torch.randn(n, generator=rng) for _ in range(2)]
        torch.testing.assert_close(torch.tensor(found), torch.stack(expected), rtol=0, atol=5e-6)
    page.close()


def test_nothing_is_loaded_before_the_button_and_nothing_from_outside_after_it(studies, browser, book):
    visit = Visit(browser, book, studies["digits"])
    visit.page.wait_for_timeout(300)
    own = {"solvers.js", "noise.js", "live.js"}
    assert {url.rpartition("/")[2] for url in visit.asked[1:]} == own
    visit.press()
    asked = {url for url in visit.asked[1:] if url.startswith("file:")}
    assert {url.rpartition("/")[2] for url in asked} == {*own, "ort.js", "mnist-smoke.js"}
    assert all(url.startswith(("file:", "blob:", "data:")) for url in visit.asked)
    assert visit.complaints == []
    visit.page.close()


def test_captions_are_text(studies, browser, book):
    visit = Visit(browser, book, studies["hostile"])
    visit.press()
    assert visit.page.evaluate("() => window.hacked ?? null") is None
    assert visit.page.locator(".live img, .live script:not([type])").count() == 0
    assert "onerror" in visit.page.locator(".live-kept figcaption").first.text_content()
    visit.page.close()


@pytest.mark.parametrize("missing", ["WebAssembly", "DecompressionStream"])
def test_without_what_it_needs_the_page_leads_to_the_samples_that_were_drawn(missing, studies, browser, book):
    visit = Visit(browser, book, studies["digits"], before=f"delete globalThis.{missing}")
    assert visit.page.locator(".live button").count() == 0
    assert "The sliders above show samples" in visit.page.locator(".live").inner_text()
    assert visit.complaints == []
    visit.page.close()


def test_a_script_that_is_gone_is_said_and_can_be_tried_again(studies, browser, book):
    visit, file = Visit(browser, book, studies["digits"]), book / "live/mnist-smoke.js"
    kept = file.read_bytes()
    file.unlink()
    visit.page.locator(".live button").click()
    visit.page.get_by_text("live/mnist-smoke.js is not in the book's folder").wait_for()
    file.write_bytes(kept)
    visit.page.locator(".live [role=status]").evaluate("e => (e.textContent = '')")
    visit.press()
    visit.page.close()


def test_a_seed_that_is_none_is_refused_and_the_last_settings_win(studies, browser, book):
    visit, library = Visit(browser, book, studies["digits"]), Library(studies["digits"])
    visit.press()
    with pytest.raises(Exception, match="A seed is a whole number from 0 to"):
        visit.sample(0, 3, -1, 7, "ddpm")
    before = visit.page.locator(".live-kept canvas").count()
    visit.page.evaluate("""() => ["5", "10", "30"].forEach((steps) => {
      document.querySelector("[id$='-seed']").value = 11;
      const input = document.querySelector("[id$='-steps']");
      input.value = steps;
      input.dispatchEvent(new Event("input"));
    })""")
    visit.page.get_by_text("30 steps in").wait_for()
    assert visit.page.locator(".live-kept canvas").count() == before + 1
    found = visit.sample(4, 2, 11, 20, "ddim")
    assert np.abs(found - library(4, 2, 11, 20, "ddim")).max() <= DEVIATION
    visit.page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_has_a_name_and_room_for_a_thumb(width, studies, browser, book):
    visit = Visit(browser, book, studies["digits"], width)
    visit.press()
    for control in visit.page.locator(".live :is(input, select, button)").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert control.evaluate("e => e.tagName === 'BUTTON' ? e.textContent : e.labels[0].textContent")
    assert visit.page.evaluate("() => document.scrollingElement.scrollWidth") <= width
    labels = [canvas.get_attribute("aria-label") for canvas in visit.page.locator(".live canvas").all()]
    assert len(labels) == 5
    assert all(labels)
    visit.page.close()


# The export


def test_it_is_exported_once_and_anew_for_other_params(trained_run, monkeypatch):
    made = export.exported(trained_run)
    wrote, write = [], export._write
    monkeypatch.setattr(export, "_write", lambda *args: (wrote.append(1), write(*args)))
    assert export.exported(trained_run) == made
    assert not wrote
    other = trained_run.params.replace(sample={"seed": 1})
    assert export.exported(replace(trained_run, params=other)) != made
    assert wrote


def test_what_cannot_be_exported_is_said_in_one_line_and_the_page_does_without(trained_run, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(export, "_graph", lambda *_: 1 / 0)
    assert live.sampler(trained_run, "explorer", tmp_path, True, said.append) is None
    assert said == ["no sampling in the page of mnist/smoke: ZeroDivisionError: division by zero"]


def test_a_record_says_how_sampling_is_had_where_the_explorer_is(trained_run, tmp_path):
    record = replace(trained_run, recorded=True)
    assert "`make book`" in live.sampler(record, "explorer", tmp_path, True, print)
    assert live.sampler(record, "experiments/mnist", tmp_path, False, print) is None


def test_large_networks_and_those_of_latents_stay_out_of_pages(trained_run, monkeypatch):
    assert export.fits(trained_run)
    assert not export.fits(replace(trained_run, params=load("mnist", "smoke").replace(sample={"sampler": "unipc"})))
    monkeypatch.setattr(export, "LARGEST", 1000)
    assert not export.fits(trained_run)


def test_the_vendored_runtime_is_the_published_one():
    said = (ASSETS / "vendor/VERSIONS.md").read_text()
    script = (ASSETS / "vendor/onnxruntime/ort.js").read_text()
    packed = json.loads(script[script.index("runtime = ") + 10 : -2])
    for text in packed.values():
        assert hashlib.sha256(gzip.decompress(base64.b64decode(text))).hexdigest() in said
    assert re.search(r"1\.30\.0", said)

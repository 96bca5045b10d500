"""Explorers of samples: what a run kept is what the page shows, by every control, and nothing that a record says is more than text."""

import io
import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from guidebook.report.explorer import explorer
from guidebook.report.tables import with_interval
from guidebook.runs.run import Run, open_run
from guidebook.sampling.sets import image_set
from guidebook.sampling.spec import Draw

ROOT = Path(__file__).parents[2]
HOSTILE = '{label} </script><script>window.hacked=1</script> "&amp;<img src=x onerror="window.hacked=1">'
SEEDS, PROMPTS, SIDE = 8, 10, 8
MADE = 10  # images of a prompt, of which the page has as many as seeds


def keep(run: Run, w: float, noise: int = 0, **more) -> np.ndarray:
    """A set of a run, (100, 1, 8, 8), with its records: made of noise, and measured by a number of its own."""
    draw, rng = Draw.of(run.params, w, MADE * PROMPTS, **more), torch.Generator().manual_seed(noise)
    images = torch.randint(0, 256, (draw.n, 1, SIDE, SIDE), generator=rng).to(torch.uint8)
    facts = {
        "labels": [i % PROMPTS for i in range(draw.n)],
        "evaluations": 2,
        "seconds_per_image": 0.1,
        "clipped": False,
    }
    image_set(run, draw.name, {"draw": draw.json}, lambda: (images, facts))
    run.add_metrics([record("adherence", 0.1 * w + 0.01 * noise, draw), record("fd_judge", 20 - w, draw)])
    return images.numpy()


def record(metric: str, value: float, draw: Draw | None, **more) -> dict:
    known = {"guidance": draw and draw.guidance.w, "draw": draw and draw.json, "group": "judge", "key": "1", "set": "x"}
    about = {"interval": "x", "extractor": "x", "reference": None, "n": 100}
    return {"metric": metric, "value": value, "low": value * 0.9, "high": value * 1.1} | known | about | more


@pytest.fixture
def kept(runs, tiny) -> tuple[Run, dict]:
    """A run with three scales, two of them also at more steps, and a variant with two; the pixels by training, scale and steps."""
    run = open_run(tiny.replace(data={"caption": HOSTILE}, sample={"guidance": [0, 1, 5]}))
    variant = run.variant("caption-dropout", train={"caption_dropout": 0.1})
    more, pixels = run.params.sample.solver.model_copy(update={"steps": 4}), {}
    for noise, (one, w, solver) in enumerate(
        [
            (run, 0, None),
            (run, 1, None),
            (run, 5, None),
            (run, 1, more),
            (run, 5, more),
            (variant, 1, None),
            (variant, 5, None),
        ]
    ):
        name = "caption-dropout" if one is variant else "the run itself"
        pixels[name, w, (solver or run.params.sample).steps] = keep(one, w, noise, solver=solver)
    run.add_metrics([record("adherence", 0.5, None, group="curve-judge"), record("adherence", 0.99, None)])
    return run, pixels


def facts(block: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', block)[1])


def settings(block: str) -> list[dict]:
    found = facts(block)
    return [{a["name"]: a["values"][i] for a, i in zip(found["axes"], s["at"], strict=True)} for s in found["sets"]]


# What a run kept


def test_every_setting_has_its_images_a_prompt_a_row_and_its_own_numbers(kept, tmp_path):
    run, pixels = kept
    found = facts(block := explorer(run, tmp_path / "x", "x/"))
    assert found["prompts"] == [HOSTILE.replace("{label}", str(k)) for k in range(PROMPTS)]
    assert len(found["sets"]) == len(pixels)
    for i, (setting, shown) in enumerate(zip(settings(block), found["sets"], strict=True)):
        w = float(setting["w"])
        images = pixels[setting["training"], w, int(setting["steps"])]
        with Image.open(tmp_path / "x" / f"{i}.png") as sprite:
            tiles = np.array(sprite).reshape(PROMPTS, SIDE, SEEDS, SIDE).transpose(0, 2, 1, 3)
        for k in range(PROMPTS):
            assert (tiles[k] == images[k::PROMPTS, 0][:SEEDS]).all()
        own = next(r for m in (run, *variants_of(run)) for r in m.metrics(metric="fd_judge") if r["value"] == 20 - w)
        assert shown["numbers"]["fd_judge"] == [
            20 - w,
            *(pytest.approx((20 - w) * f) for f in (0.9, 1.1)),
            100,
            with_interval(own),
        ]
    assert [settings(block)[i]["w"] for i in found["first"]] == ["1", "5"]
    assert found["metrics"]["adherence"]["real"][0] == 99


def variants_of(run: Run) -> list[Run]:
    return [run.variant("caption-dropout", train={"caption_dropout": 0.1})]


def test_a_record_whose_sets_lack_images_gives_an_explorer_of_what_is_there(kept, tmp_path, caplog):
    run, _ = kept
    recorded = Run(run.params, run.path, recorded=True)
    for folder in run.path.glob("**/samples/*"):  # as a record keeps them
        (folder / "images.safetensors").unlink()
        (folder / "manifest.json").unlink(missing_ok=True)
    before = settings(explorer(recorded, tmp_path / "a", "x/"))
    gone, cut, odd = (next(run.path.glob(f"samples/w{w}-ddpm-*")) for w in (0, 1, 5))
    (gone / "sheet.png").unlink()
    (cut / "sheet.png").write_bytes((cut / "sheet.png").read_bytes()[:40])
    (odd / "set.json").write_text(json.dumps(json.loads((odd / "set.json").read_text()) | {"labels": [10**9] * 100}))
    after = settings(explorer(recorded, tmp_path / "b", "x/"))
    assert len(after) == len(before) - 3
    assert all(setting in before for setting in after)
    assert caplog.text.count("left out") == 3
    for folder in run.path.glob("**/samples/*"):
        shutil.rmtree(folder)
    assert explorer(recorded, tmp_path / "c", "x/") == ""
    assert not (tmp_path / "c").exists()


def test_sets_of_other_prompts_and_other_seeds_are_no_part_of_it(kept, tmp_path):
    run, pixels = kept
    keep(run, 5, prompt="")
    keep(run, 3, seed=7)
    keep(run.variant("other", data={"caption": "{label}"}), 3)
    assert len(settings(explorer(run, tmp_path / "x", "x/"))) == len(pixels)


def test_no_caption_ends_the_script_that_holds_it(kept, tmp_path):
    block = explorer(kept[0], tmp_path / "x", "x/")
    assert block.count("<script") == block.count("</script") == 1
    assert "\n" not in block


# The page


class Reader:
    """A page with the explorer of a run, opened from its file: what it asked for and complained about."""

    def __init__(self, browser, folder: Path, width: int = 1280, fragment: str = ""):
        self.page, self.asked, self.complaints = browser.new_page(viewport={"width": width, "height": 900}), [], []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto((folder / "page.html").as_uri() + fragment)
        self.settle()

    def settle(self) -> None:
        """Images come when the browser has decoded them."""
        self.page.wait_for_selector(".explorer-images canvas")
        self.page.evaluate("() => new Promise((done) => setTimeout(done, 150))")

    def panel(self, side: str):
        return self.page.get_by_role("group", name=f"setting {side}")

    def tiles(self, side: str) -> np.ndarray:
        """The pixels (N, 8, 8) that a panel shows, each from the middle of the square that the browser makes of it."""
        found = []
        for tile in self.panel(side).locator("canvas").all():
            with Image.open(io.BytesIO(tile.screenshot())) as image:
                shown = np.array(image.convert("RGB"))
            rows, columns = (((np.arange(SIDE) + 0.5) * n / SIDE).astype(int) for n in shown.shape[:2])
            assert (shown.max(2) == shown.min(2))[np.ix_(rows, columns)].all()
            found.append(shown[np.ix_(rows, columns)][..., 0])
        return np.array(found)

    def mark(self, side: str) -> float:
        return float(self.page.locator(f".explorer circle.{side.lower()}").get_attribute("cx"))

    def fetched(self) -> list[str]:
        return [Path(urlsplit(url).path).name for url in self.asked if url.endswith(".png")]


@pytest.fixture
def folder(kept, tmp_path) -> Path:
    place = tmp_path / "site"
    for name in ("js/explorer.js", "vendor"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "book/_assets/js/explorer.js", place / "js")
    shutil.copy(ROOT / "book/_static/custom.css", place)
    block = explorer(kept[0], place / "samples", "samples/")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="stylesheet" href="custom.css">'
    script = '<script defer src="js/explorer.js"></script>'
    (place / "page.html").write_text(f"<!doctype html>{head}<div class='bd-article'>{block}</div>{script}{script}")
    return place


@pytest.fixture
def reader(browser, folder):
    reader = Reader(browser, folder)
    yield reader
    assert reader.complaints == []
    assert [url for url in reader.asked if urlsplit(url).scheme != "file"] == []
    assert reader.page.evaluate("() => window.hacked ?? null") is None
    reader.page.close()


def same(shown: np.ndarray, images: np.ndarray) -> bool:
    """Colours of a screen are those of the pixels, to 1 of 255."""
    images = images[:, 0].astype(int)
    return shown.shape == images.shape and np.abs(shown - images).max() <= 1


ITSELF, DROPPED = "the run itself", "caption-dropout"


def test_it_opens_with_guidance_off_beside_guidance_on_and_fetches_nothing_else(reader, kept):
    _, pixels = kept
    assert same(reader.tiles("A"), pixels[ITSELF, 1, 2][:20])
    assert same(reader.tiles("B"), pixels[ITSELF, 5, 2][:20])
    assert reader.fetched() == ["0.png", f"{facts(reader.page.content())['first'][1]}.png"]


def test_the_keyboard_moves_the_scale_its_images_its_numbers_and_its_mark(reader, kept):
    _, pixels = kept
    scale = reader.panel("A").get_by_role("slider", name="w")
    places = {}
    for key, w in (("ArrowRight", 5), ("Home", 0), ("ArrowRight", 1)):
        scale.press(key)
        reader.settle()
        places[w] = reader.mark("A")
        assert same(reader.tiles("A"), pixels[ITSELF, w, 2][:20])
        assert scale.get_attribute("aria-valuetext") == f"w = {w}"
        assert (
            f"fd_judge {20 - w:.1f} [{0.9 * (20 - w):.1f}, {1.1 * (20 - w):.1f}]"
            in reader.page.locator("[aria-live]").inner_text()
        )
        assert (
            f"{20 - w:.1f}"
            in reader.page.locator(".explorer tbody tr", has_text="fd_judge").locator("td").first.inner_text()
        )
    assert places[0] < places[1] < places[5] == reader.mark("B")
    assert places[5] - places[1] == pytest.approx(4 * (places[1] - places[0]))  # w is a length on the axis
    assert same(reader.tiles("B"), pixels[ITSELF, 5, 2][:20])


def test_a_prompt_shows_its_seeds_in_both_panels(reader, kept):
    _, pixels = kept
    reader.page.get_by_label("prompt", exact=True).select_option(index=4)
    reader.settle()
    for side, w in (("A", 1), ("B", 5)):
        assert same(reader.tiles(side), pixels[ITSELF, w, 2][3::PROMPTS][:SEEDS])
    assert HOSTILE.replace("{label}", "3") in reader.panel("A").inner_text()


def test_a_choice_that_was_not_drawn_with_the_others_leads_to_the_nearest_that_was(reader, kept):
    _, pixels = kept
    panel = reader.panel("A")
    panel.get_by_role("slider", name="w").press("Home")
    assert panel.get_by_role("slider", name="steps").is_disabled()  # at w = 0 there is one
    panel.get_by_label("training", exact=True).select_option(DROPPED)
    reader.settle()
    assert panel.get_by_role("slider", name="w").get_attribute("aria-valuetext") == "w = 1"
    assert same(reader.tiles("A"), pixels[DROPPED, 1, 2][:20])
    panel.get_by_label("training", exact=True).select_option(ITSELF)
    panel.get_by_role("slider", name="steps").press("End")
    reader.settle()
    assert same(reader.tiles("A"), pixels[ITSELF, 1, 4][:20])


def test_the_address_leads_another_reader_to_the_same_settings(reader, browser, folder, kept):
    _, pixels = kept
    reader.panel("B").get_by_label("training", exact=True).select_option(DROPPED)
    reader.panel("A").get_by_role("slider", name="w").press("End")
    reader.page.get_by_label("prompt", exact=True).select_option(index=2)
    reader.page.get_by_label("metric", exact=True).select_option(index=1)
    fragment = urlsplit(reader.page.url).fragment
    other = Reader(browser, folder, fragment=f"#{fragment}")
    assert same(other.tiles("A"), pixels[ITSELF, 5, 2][1::PROMPTS][:SEEDS])
    assert same(other.tiles("B"), pixels[DROPPED, 5, 2][1::PROMPTS][:SEEDS])
    assert other.page.get_by_label("metric", exact=True).input_value() == "1"
    reader.page.get_by_label("compare two settings", exact=True).uncheck()
    assert reader.panel("B").count() == 0
    other.page.goto(reader.page.url)  # its fragment alone differs
    other.settle()
    assert other.panel("B").count() == 0
    other.page.evaluate(
        "() => (location.hash = '#' + location.hash.slice(1).split('?')[0] + '?prompt=99&A.w=%zz&B.steps=no&over=-3')"
    )
    other.settle()
    assert len(other.tiles("A")) == 20
    assert other.complaints == []
    other.page.close()


def test_pixels_are_as_they_are_in_the_dark_and_smooth_where_that_is_asked_for(reader, kept):
    _, pixels = kept
    reader.page.evaluate("() => (document.documentElement.dataset.theme = 'dark')")
    assert same(reader.tiles("A"), pixels[ITSELF, 1, 2][:20])
    reader.page.get_by_label("smooth pixels", exact=True).check()
    assert not same(reader.tiles("A"), pixels[ITSELF, 1, 2][:20])


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_has_a_name_and_room_for_a_thumb(browser, folder, width):
    reader = Reader(browser, folder, width)
    for control in reader.page.locator(".explorer :is(input, select):visible").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert control.evaluate("(e) => e.labels[0].textContent")
    for pictured in reader.page.locator(".explorer [role=img]").all():
        assert re.search(r"\d", pictured.get_attribute("aria-label"))
    assert reader.page.evaluate("() => document.scrollingElement.scrollWidth") <= width
    reader.page.close()

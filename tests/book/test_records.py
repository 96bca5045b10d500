"""The table of records: made from the page's own data, filtered, sorted, linked and taken along without a server."""

import csv
import io
import json
from pathlib import Path

import pytest

from guidebook.book import records
from guidebook.report.tables import Html
from guidebook.runs.run import opened

ROOT = Path(__file__).parents[2]
EVIL = '</script><img src=x onerror="window.hacked=1"> & "quoted"'
RUNS = ("a/demo", "a/demo · seed-1", f"b/{EVIL}")


def row(run, metric, w, value, n=100, way="ddim, 50 steps"):
    record = {"guidance": w, "value": value, "low": value - 0.5, "high": value + 0.5, "n": n}
    shown = f"{value:.2f} [{value - 0.5:.2f}, {value + 0.5:.2f}]"
    return records._row(run, (metric, "", shown, str(n), "normal", f"judge {EVIL}", "test split", "raw", way), record)


ROWS = [
    row(run, metric, w, value=(7 * i + 3 * j + k) % 11, way=f"=SUM(1)+{k} steps" if w else "")
    for i, run in enumerate(RUNS)
    for j, metric in enumerate(("fd_judge", "grain", "adherence"))
    for k, w in enumerate((None, 1.0, 2.0, 10.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0))
]


@pytest.fixture
def page(browser, tmp_path):
    """The page's data, its place and its script, and the book's style."""
    style, script = (ROOT / "book" / name for name in ("_static/custom.css", "_assets/js/records.js"))
    file = tmp_path / "results.html"
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title><style>{style.read_text()}</style><body class="bd-article">'
        f'<div id="records"></div>{records._script(ROWS)}<script>{script.read_text()}</script></body></html>'
    )
    page = browser.new_page(viewport={"width": 900, "height": 900}, accept_downloads=True)
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("() => window.hacked") is None
    page.close()


def choose(page, facet, value):
    page.get_by_label(facet, exact=True).select_option(value)


def column(page, label):
    return page.locator(f'#records tbody [data-label="{label}"]').all_inner_texts()


VALUE = "value [95 % interval]"


def test_rows_are_made_as_they_are_needed(page):
    assert page.locator("#records tbody tr").count() == 60
    page.locator(".more").click()
    assert page.locator("#records tbody tr").count() == 90
    assert not page.locator(".more").is_visible()


def test_facets_leave_the_rows_that_fit_and_offer_what_is_left(page):
    choose(page, "run", RUNS[2])
    choose(page, "metric", "grain")
    assert page.locator("#records [role=status]").inner_text() == "10 of 90 records"
    choose(page, "w", "2.5")
    (found,) = column(page, VALUE)
    assert found.split("\n")[0] == "10.00"  # (14 + 3 + 4) mod 11
    assert page.get_by_label("run", exact=True).locator("option").count() == 4
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#records [role=status]").inner_text() == "90 of 90 records"


def test_a_heading_sorts_by_the_number_and_again_the_other_way_round(page):
    choose(page, "metric", "grain")
    choose(page, "run", RUNS[0])
    for field, label in (("w", "w"), (VALUE, VALUE)):
        page.get_by_role("button", name=field, exact=True).click()
        up = [x.split("\n")[0] for x in column(page, label)]
        page.get_by_role("button", name=field, exact=True).click()
        assert [x.split("\n")[0] for x in column(page, label)] == up[::-1]
        numbers = [float(x) for x in up if x != "real images"]
        assert numbers == sorted(numbers)
    assert page.locator('#records th[data-field="value"]').get_attribute("aria-sort") == "descending"


def test_the_link_of_a_row_leads_to_it(page):
    choose(page, "metric", "adherence")
    link = page.locator("#records tbody a").nth(3)
    expected = page.locator("#records tbody tr").nth(3).inner_text()
    link.click()
    assert page.locator("#records tbody tr").all_inner_texts() == [expected]
    page.reload()
    assert page.locator("#records tbody tr").all_inner_texts() == [expected]


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(download.value.path()).read_text()


def test_what_is_shown_can_be_taken_along_with_every_digit(page):
    choose(page, "run", RUNS[2])
    whole = json.loads(saved(page, "JSON"))
    assert [[r[k] for k in records.FIELDS] for r in whole] == [r for r in ROWS if r[0] == RUNS[2]]
    lines = list(csv.DictReader(io.StringIO(saved(page, "CSV"))))
    assert [float(x["value"]) for x in lines] == [r["value"] for r in whole]
    assert lines[0]["read_by"] == f"judge {EVIL}"
    assert lines[1]["drawn_by"] == "'=SUM(1)+1 steps"  # no formula where a spreadsheet opens it


def test_on_a_phone_a_row_is_a_card_with_its_number(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("() => document.scrollingElement.scrollWidth") <= 390
    box = page.locator(f'#records tbody [data-label="{VALUE}"]').first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.set_viewport_size({"width": 900, "height": 900})
    assert page.locator("#records thead th").last.bounding_box()["x"] < 860


def test_a_row_for_every_run_and_those_of_variants_folded():
    folder = ROOT / "book/results/grain/demo"
    runs = [opened(file.parent) for file in sorted(folder.rglob("params.yml"))]
    main, _, others = records.parts(runs, lambda run: Html(run.name))["main"].partition("<details>")
    assert "<strong>grain/demo</strong>" in main
    assert " · " not in main
    assert others.startswith("<summary>5 variants and further trainings</summary>")
    assert others.count("<strong>grain/demo · ") == 5
    assert "<details>" not in records.parts(runs[:1], lambda run: Html(run.name))["main"]

"""Pages made from the runs say what was recorded, and no more."""

import html
import json
import re
from collections import Counter

import pytest

from guidebook.book import pages
from guidebook.book.chapter import Chapter
from guidebook.config.budget import share
from guidebook.config.paths import NOTEBOOKS, RESULTS
from guidebook.report.banner import fraction
from guidebook.report.tables import table
from guidebook.runs.run import open_run, opened

MADE = {"commit": "0123456789abcdef", "dirty": False, "date": "2026-01-02", "torch": "2.0", "cores": 2}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes a record of faults in place of the study's."""
    file = tmp_path / "faults.json"
    monkeypatch.setattr(pages, "FAULTS", file)

    def write(*faults):
        names = ("promise", "fault", "tried", "held", "detail")
        file.write_text(json.dumps({"made": MADE, "faults": [dict(zip(names, f, strict=True)) for f in faults]}))
        return pages.reliability()

    return write


def test_before_faults_were_tried_the_page_says_so(recorded):
    page = pages.reliability()
    assert "No test of faults has been recorded yet" in page
    assert "<td>" not in page


def test_rounds_of_one_fault_are_added_up(recorded):
    page = recorded((1, "kill", 30, 30, "a"), (1, "kill", 12, 12, "b"), (3, "flip", 1000, 1000, "c"))
    assert "put to the test 1,042 times and held 1,042 times" in page
    assert "<td>kill</td><td>42</td><td>42</td><td>a; b</td>" in page
    assert "<td>flip</td><td>1,000</td><td>1,000</td><td>c</td>" in page
    assert "at commit 01234567, with torch 2.0 on 2 CPU cores" in page


def test_a_fault_stands_under_its_promise(recorded):
    page = recorded((4, "disk", 1, 1, ""), (6, "race", 8, 8, ""))
    heads = [
        "## 4. Full disks",
        "<td>disk</td>",
        "## 5. Losses that are not finite",
        "## 6. One process at a time",
        "<td>race</td>",
    ]
    assert [page.index(h) for h in heads] == sorted(page.index(h) for h in heads)


def test_all_ten_promises_are_written_with_or_without_a_fault(recorded):
    page = recorded((1, "kill", 1, 1, ""))
    assert [f"## {n}. " in page for n in range(1, 11)] == [True] * 10


def test_what_a_test_wrote_is_text_in_the_page(recorded):
    page = recorded((8, "<img src=x onerror=alert(1)>", 1, 1, "a <b>"))
    assert "<img" not in page
    assert "a &lt;b&gt;" in page


# The page of results

SOLVER = {"sampler": "ddim", "steps": 25, "eta": 0.0, "spacing": "leading"}
DRAW = {"n": 300, "guidance": {"w": 2.0}, "solver": SOLVER, "weights": "raw", "seed": 422}
RECORD = {
    "metric": "fd_judge", "value": 1.0, "low": 0.5, "high": 1.5, "interval": "normal", "n": 300, "guidance": 2.0, "draw": DRAW,
    "extractor": "judge", "reference": None, "group": "judge",
}  # fmt: skip
UNUSUAL = {
    "prompt": "", "weights": "ema-0.99", "seed": 7, "at": 8960, "kind": "trajectory",
    **{key: {"solver": SOLVER | {key: value}} for key, value in {"steps": 10, "eta": 1.0, "spacing": "karras"}.items()},
    "sampler": {"solver": SOLVER | {"sampler": "ddpm"}},
    "combine": {"guidance": {"w": 2.0, "combine": "rescaled", "phi": 0.7}},
    "between": {"guidance": {"w": 2.0, "between": [0.3, 5.0]}},
    "against": {"guidance": {"w": 2.0, "against": {"weights": "raw"}}},
}  # fmt: skip


def rows(page: str) -> list[dict]:
    """The records that a page hands to its script."""
    data = json.loads(re.search('id="records-data">(.*?)</script>', page)[1])
    coded = ([data["words"][v] if i in data["coded"] else v for i, v in enumerate(row)] for row in data["rows"])
    return [dict(zip(data["fields"], row, strict=True)) for row in coded]


@pytest.mark.parametrize("field", UNUSUAL)
def test_a_set_that_differs_in_one_fact_has_a_row_that_differs(field, runs, tiny):
    run, other = open_run(tiny.replace(profile="demo")), UNUSUAL[field]
    other = RECORD | {"draw": DRAW | (other if isinstance(other, dict) else {field: other})}
    run.add_metrics([RECORD, other, RECORD | {"guidance": 5.0}, RECORD | {"n": 200}])
    found = rows(pages.results([run]))
    assert len({tuple(row.values()) for row in found}) == len({row["key"] for row in found}) == 4
    assert found[0]["drawn_by"] == "ddim, 25 steps"


def test_a_recorded_run_that_falls_short_is_called_a_fraction_in_the_contents_and_says_of_what_beside_its_results():
    runs = [opened(path.parent) for path in sorted(RESULTS.glob("*/*/params.yml"))]
    titles = {r.name: Chapter("", r, (NOTEBOOKS / f"{r.params.experiment}.ipynb",)).title for r in runs}
    assert titles["cifar10/best"] == "CIFAR-10 (fraction of best)"
    assert titles["imagenet100/imagenette"] == "ImageNet-100 (fraction on imagenette)"
    seen = {r.name: share(r.params, r.provenance()["images_seen"]) for r in runs}  # None where nobody has published it
    short = [r for r in runs if r.params.profile != "demo" and (seen[r.name] or 1) < 0.9]
    assert len(short) > 5
    assert [r.name for r in short if "fraction" not in titles[r.name]] == []
    celeba = pages.results([r for r in runs if r.name == "celeba/fraction"])
    assert html.unescape(celeba).count(f">{fraction(opened(RESULTS / 'celeba' / 'fraction'))}. Data: a subset of") == 1


def test_how_a_set_was_drawn_is_said_in_words(runs, tiny):
    run = open_run(tiny.replace(profile="demo"))
    drawn = [
        DRAW | {"solver": SOLVER | {"eta": 1.0, "spacing": "trailing"}, "at": 8960},
        DRAW | {"guidance": {"w": 2.0, "between": [0.3, 5.0], "against": {"run": "guide", "share": 0.1}}, "seed": 7},
    ]
    run.add_metrics([*(RECORD | {"draw": draw} for draw in drawn), RECORD | {"draw": None, "guidance": None}])
    assert [row["drawn_by"] for row in rows(pages.results([run]))] == [
        "",
        "ddim, η = 1, 25 steps, trailing spacing, after 8,960 images",
        "ddim, 25 steps, seed 7, 0.3 < σ ≤ 5, against guide, 0.1 of the training",
    ]


@pytest.mark.parametrize("folder", sorted(p.parent for p in RESULTS.glob("*/*/metrics.json")), ids=str)
def test_in_a_committed_record_no_two_rows_are_alike(folder):
    found = rows(pages.results([opened(folder)]))
    assert len(found) > 10
    value = {"value", "low", "high", "shown", "key"}
    of = Counter(tuple(v for k, v in row.items() if k not in value) for row in found)
    assert [row for row, n in of.items() if n > 1] == []
    assert len({row["key"] for row in found}) == len(found)  # the link of a row leads to no other


def test_one_way_under_two_names_has_one_row(runs, tiny):
    run = open_run(tiny.replace(profile="demo"))
    run.add_metrics([RECORD | {"set": "w2"}, RECORD | {"set": "w2-ddim"}])
    assert len(rows(pages.results([run]))) == 1


def test_a_run_has_a_row_with_its_most_adherence_and_its_least_distance_and_their_scale(runs, tiny):
    run = open_run(tiny.replace(profile="demo"))
    found = {1.0: (0.5, 3.0), 2.0: (0.9, 1.0), 5.0: (0.8, 2.0)}
    for w, values in found.items():
        for metric, value in zip(("adherence", "fd_judge"), values, strict=True):
            record = {"metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "guidance": w}
            run.add_metrics([RECORD | record | {"draw": DRAW | {"guidance": {"w": w}}}])
    run.add_metrics([RECORD | {"guidance": None, "draw": None, "value": 0.1}])  # of real images
    page = pages.results([run])
    assert "<td>90.0 % [80.0, 100.0]<div" in page
    assert "<th>most adherence</th><th>least fd_<wbr>judge</th><th>records</th>" in page
    assert page.count(">w = 2, n = 300<") == 2
    assert page.count("<tr>") == 2


def test_what_a_record_says_ends_no_script(runs, tiny):
    run = open_run(tiny.replace(profile="demo"))
    run.add_metrics([RECORD | {"extractor": "</script><b> & \u2028"}])
    page = pages.results([run])
    assert page.count("</script>") == 2  # of the data, and of the page's own
    assert rows(page)[0]["read_by"].startswith("</script><b> &")


def test_what_a_run_folder_says_stays_on_one_line():
    text = table(["a", "b", "c"], [["x\n\n```{raw} html\ny", None, 3]]).text
    assert "\n" not in text
    assert "<td></td><td>3</td>" in text


# The table of experiments


def test_the_table_of_experiments_lists_every_one_and_links_its_pages():
    shown = [
        ("A: why?", [("experiments/a", "demo", "digits, 5 images seen"), ("experiments/a-paper", "paper", "mnist, 6")]),
        ("B: how?", []),
    ]
    found = pages.experiments(shown)
    a, b = (re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td.*?)</tr>", found))
    demo, paper = (f'<a href="experiments/a{more}.html">' for more in ("", "-paper"))
    assert a[1:] == ["why?", f"{demo}demo</a>: digits, 5 images seen; {paper}paper</a>: mnist, 6"]
    assert b[1:] == ["how?", "not run yet"]

"""The page on reliability says what was recorded, and no more."""

import json

import pytest

from guidebook import pages

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

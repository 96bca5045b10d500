"""The filter of the page of claims: by document, verdict and data, with counts that follow, in the table and in the forest plot."""

import re
from pathlib import Path

import pytest

from guidebook.book.pages import _found
from guidebook.report.claims import Answer, forest, marked
from guidebook.report.tables import table

ROOT = Path(__file__).parents[2]
DRAWN, REAL = "difference +1 [0, 2]; digits for mnist at 8×8, n = 5", "difference +1 [0, 2]; mnist at 28×28, n = 5"
CLAIMS = {
    "Ho, 2022": {"a": ("holds", [("holds", DRAWN), ("holds", REAL)]), "b": ("undecided", [("undecided", DRAWN)])},
    "Shah, 2024": {"c": ("does not hold", [("does not hold", REAL)]), "d": ("open", [("open", "no run yet")])},
}


@pytest.fixture
def page(browser, tmp_path):
    sections, given = "", []
    for document, claims in CLAIMS.items():
        rows = []
        for claim, (outcome, answers) in claims.items():
            for i, (verdict, note) in enumerate(answers):
                answer = Answer(claim, "found", verdict, note, [1.0, 0.5, 1.5] if verdict != "open" else None)
                given.append(answer)
                name, says = (claim, f"claim {claim}") if i == 0 else ("", "")
                rows.append([marked(verdict, name, outcome), says, _found(answer, "")])
        sections += f"<section><h2>{document}<a>#</a></h2>{table(['verdict', 'claim', 'found'], rows).text}</section>"
    filter = re.search(r'<div class="filter".*?</div>', (ROOT / "book/claims.md").read_text(), re.S)[0]
    style, script = (ROOT / "book" / name for name in ("_static/custom.css", "_assets/js/claims.js"))
    file = tmp_path / "claims.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><style>{style.read_text()}</style><body class=bd-article>{forest(given)}{filter}{sections}"
        f"<script>{script.read_text()}</script>"
    )
    page = browser.new_page()
    page.goto(file.as_uri())
    yield page
    page.close()


def shown(page):
    """Texts of the claims' column, claims of the forest plot, and the count."""
    rows = page.locator("tbody tr:visible td:nth-child(2)").all_inner_texts()
    lines = page.locator(".forest > .verdict:visible > span:first-child").all_inner_texts()
    return rows, lines, page.locator("[role=status]").inner_text()


def test_all_but_open_claims_are_shown_at_first_and_each_verdict_says_how_many(page):
    assert shown(page) == (["claim a", "", "claim b", "claim c"], ["a", "a", "b", "c"], "3 of 4 claims")
    labels = [" ".join(x.split()) for x in page.locator(".filter label:has(input)").all_inner_texts()]
    assert labels == ["✓ holds 1", "✗ does not hold 1", "? undecided 1", "… open 1", "without stand-in data"]
    page.locator("[name=open]").check()
    assert shown(page) == (["claim a", "", "claim b", "claim c", "claim d"], ["a", "a", "b", "c"], "4 of 4 claims")


def test_a_link_to_an_open_claim_shows_it(page):
    page.goto(f"{page.url}#d")
    assert shown(page) == (["claim a", "", "claim b", "claim c", "claim d"], ["a", "a", "b", "c"], "4 of 4 claims")
    page.locator("[name=holds]").uncheck()
    page.goto(page.url.replace("#d", "#a"))
    assert shown(page)[0] == ["claim a", "claim b", "claim c"]


def test_a_document_and_a_verdict_leave_their_claims(page):
    page.get_by_label("document").select_option("Ho, 2022")
    assert shown(page) == (["claim a", "", "claim b"], ["a", "a", "b"], "2 of 4 claims")
    page.locator("[name=undecided]").uncheck()
    assert shown(page) == (["claim a", ""], ["a", "a"], "1 of 4 claims")
    assert "✗ does not hold 0" in " ".join(page.locator(".filter").inner_text().split())


def test_without_stand_in_data_an_answer_on_real_data_still_says_its_claim(page):
    page.get_by_label("without stand-in data").check()
    assert shown(page) == (["claim a", "claim c"], ["a", "c"], "2 of 4 claims")
    page.get_by_label("without stand-in data").uncheck()
    assert shown(page)[0] == ["claim a", "", "claim b", "claim c"]

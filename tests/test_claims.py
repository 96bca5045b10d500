"""Claims: rows that are data, answered by notebooks, computed where a document's own configuration answers."""

import json
import re

import pytest

from guidebook.book import pages
from guidebook.config.params import ParamsError, check
from guidebook.config.paths import BOOK
from guidebook.report import claims
from guidebook.report.claims import Answer, Answers, Claim, Claims, answers, configured, every

ROW = {"id": "x", "source": "thesis2026", "where": "table 1", "says": "more is better"}


def test_every_claim_cites_a_document_of_the_bibliography():
    bibliography = (BOOK / "references.bib").read_text()
    assert all(f"{{{c.source}," in bibliography for c in every().values())


@pytest.mark.parametrize(
    "rows",
    [[ROW, ROW], [ROW | {"stated": 5.0}], [ROW | {"parameters": "mnist/paper"}], [ROW | {"says": "a\nb"}], []],
    ids=["twice", "no configuration", "nothing stated", "two lines", "none"],
)
def test_rows_that_cannot_be_are_refused_in_one_line(rows):
    with pytest.raises(ParamsError) as caught:
        check({"claims": rows}, "claims.yml", Claims)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("stated", "verdict"),
    [(3_140_385.0, "holds"), (3.1e6, "holds"), (25e6, "does not hold: it is 8 times fewer"), (1.57e6, "does not hold: it is 2 times as many")],
)  # fmt: skip
def test_a_stated_size_is_compared_with_that_of_the_configuration(stated, verdict):
    answer = configured(Claim(**ROW, stated=stated, parameters="mnist/paper"))
    assert answer.found == "its configuration (mnist/paper.yml) has 3,140,385"
    assert answer.verdict == verdict


def test_the_published_cifar10_network_has_twice_the_stated_size():
    assert "87,983,363" in configured(every()["cifar10-size"]).found


def test_what_a_notebook_answered_is_found_in_it(tmp_path):
    told = [("mnist-grain", "grain <b>", "holds"), ("mnist-best", "w = 2", "does not hold")]
    text, metadata = Answers(told)._repr_html_()
    assert "<b>" not in text
    assert every()["mnist-grain"].says in text
    output = {"data": {"text/html": text}, "metadata": {"text/html": metadata}}
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}, {"source": "prose"}]}))
    assert answers(tmp_path / "page.ipynb") == [Answer(*a) for a in told]


def test_an_answer_to_no_claim_is_refused():
    with pytest.raises(KeyError, match="no-such-claim"):
        Answers([("no-such-claim", "", "")])


def test_the_page_has_a_row_for_each_claim_and_each_answer(monkeypatch):
    rows = {c.id: c for c in (Claim(**ROW), Claim(**ROW | {"id": "y", "says": "less is more"}))}
    monkeypatch.setattr(pages, "every", lambda: rows)
    found = [("a", "A", "digits", [Answer("x", "12", "holds")]), ("b", "B", "mnist", [Answer("x", "13", "undecided")])]
    page = pages.claims(found)
    assert page.count("more is better") == page.count("less is more") == 1
    assert page.count('<a href="a.html">A: digits</a>') == page.count('<a href="b.html">B: mnist</a>') == 1
    assert "not tested yet" in page
    assert claims.FILE.name == "claims.yml"


def test_a_document_is_named_in_words_of_the_bibliography():
    page = pages.claims([])
    assert re.findall("^## (.*)", page, re.M) == ["Domnenco, 2026", "Shah et al., 2024"]
    assert "*Enhancing Diffusion Models for High-Quality Image Generation* {cite}`shah2024`" in page
    assert "CLIP-Conditioned" in page
    assert pages._document("dhariwal2021")[0] == "Dhariwal and Nichol, 2021"
    assert pages._document("immerkaer1996")[0] == "Immerkær, 1996"

"""Claims: rows that are data, answered by notebooks or by their documents, computed where a configuration answers."""

import ast
import inspect
import json
import re

import pytest
from diffusers import AutoencoderKL, FluxPipeline
from diffusers import StableDiffusion3Pipeline as SD3Pipeline

from guidebook.book import pages
from guidebook.config.params import ParamsError, check
from guidebook.config.paths import BOOK, NOTEBOOKS
from guidebook.metrics.compare import Verdict
from guidebook.models import counting
from guidebook.models.atlas import load_atlas
from guidebook.report import claims
from guidebook.report.banner import fraction
from guidebook.report.claims import Answer, Answers, Claim, Claims, answers, broken, every, from_atlas, together
from guidebook.runs.run import open_run

ROW = {"id": "x", "source": "thesis2026", "where": "table 1", "says": "more is better", "kind": "count"}
METHODS = (
    "kynkaanniemi2024interval", "chung2024cfgpp", "sadat2024apg", "lin2024flaws", "karras2024autoguidance", "dhariwal2021",
    "esser2024sd3", "salimans2022",
)  # fmt: skip
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
SUM = re.compile(rf"({NUMBER}(?: [+−×/] {NUMBER})+) = ({NUMBER})")
UNREAD = re.compile(r"(?<!\b[wIpd]) =")  # an equation that is no sum of numbers, other than w = 5


def answered_by_notebooks() -> list[str]:
    """The ids in the source of every `Answers` of every notebook."""
    cells = [c for n in NOTEBOOKS.glob("*.ipynb") for c in json.loads(n.read_text())["cells"]]
    sources = [text for c in cells if "Answers(" in (text := "".join(c["source"])) and c["cell_type"] == "code"]
    return [n.value for text in sources for n in ast.walk(ast.parse(text)) if getattr(n, "value", None) in every()]


def computed(terms: str) -> float:
    """The value of a sum of products, as in `16 × 1.5 / 2 + 3`."""
    total, sign = 0.0, 1
    for part in re.split(r" ([+−]) ", terms.replace(",", "")):
        if part in "+−":
            sign = 1 if part == "+" else -1
            continue
        first, *factors = re.split(r" ([×/]) ", part)
        value = float(first)
        for operator, factor in zip(factors[::2], factors[1::2], strict=True):
            value = value * float(factor) if operator == "×" else value / float(factor)
        total += sign * value
    return total


def test_each_claim_is_open_or_answered_by_its_document_or_by_exactly_one_notebook():
    own = {c.id for c in every().values() if c.open or c.answer or c.atlas}
    given = answered_by_notebooks()
    assert len(given) == len(set(given)) > 20
    assert not own & set(given)
    assert own | set(given) == set(every())


def test_a_claim_that_names_the_atlas_names_rows_that_state_a_number_and_has_the_verdict_of_them_together():
    known = load_atlas()
    found = counting.answers(known, counting.counted(known))
    named = [c for c in every().values() if c.atlas]
    assert len(named) > 20
    for claim in named:
        assert set(claim.atlas) <= set(found), claim.id
        held = all(found[row][1] == "holds" for row in claim.atlas)
        assert from_atlas(claim).verdict == ("holds" if held else "does not hold"), claim.id


def test_every_document_has_claims_that_its_own_words_or_numbers_answer():
    sources = {c.source for c in every().values()}
    assert sources == {"thesis2026", "shah2024", "sahu2025", "kuznedelevlecture", "li2024scalability", *METHODS}
    assert {c.source for c in every().values() if c.answer} == sources - {"li2024scalability", *METHODS}
    assert all(c.answer for c in every().values() if c.kind == "contradiction")


def test_what_is_decided_by_the_document_spells_out_sums_that_are_right():
    sums = {f"{c.id}: {m[0]}": m for c in every().values() if c.answer for m in SUM.finditer(c.answer.found)}
    assert len(sums) > 30
    wrong = []
    for name, (terms, stated) in {name: m.groups() for name, m in sums.items()}.items():
        rounding = 0.5000001 * 10 ** -len(stated.partition(".")[2])
        if abs(computed(terms) - float(stated.replace(",", ""))) > rounding:
            wrong.append(f"{name}, not {computed(terms)}")
    assert not wrong
    unread = [c.id for c in every().values() if c.answer and UNREAD.search(SUM.sub("", c.answer.found))]
    assert not unread


def test_what_a_library_answers_is_what_it_says():
    defaults = inspect.signature(AutoencoderKL.__init__).parameters
    assert str(defaults["scaling_factor"].default) in every()["celeba-vae"].answer.found
    drawn = {inspect.signature(p.__init__).parameters["scheduler"].annotation for p in (FluxPipeline, SD3Pipeline)}
    assert [scheduler.__name__ in every()["lecture-flux-process"].answer.found for scheduler in drawn] == [True]


def test_a_wrong_sum_would_be_seen():
    assert SUM.search("as 5,063 × 2.64 / 3,600 = 3.71 hours").groups() == ("5,063 × 2.64 / 3,600", "3.71")
    assert computed("5,063 × 2.64 / 3,600") == pytest.approx(3.7129, abs=1e-4)
    assert computed("15.40 − 15.00 + 2 × 3 / 4") == pytest.approx(1.9)


def test_every_claim_cites_a_document_of_the_bibliography():
    bibliography = (BOOK / "references.bib").read_text()
    assert all(f"{{{c.source}," in bibliography for c in every().values())


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, ROW],
        [ROW | {"open": "a flow model", "atlas": ["mnist"]}],
        [ROW | {"atlas": ["two words"]}],
        [ROW | {"says": "a\nb"}],
        [ROW | {"kind": "opinion"}],
        [{k: v for k, v in ROW.items() if k != "kind"}],
        [ROW | {"answer": {"found": "1 + 1 = 2", "verdict": "perhaps"}}],
        [],
    ],
    ids=["twice", "open and answered", "no id", "two lines", "unknown kind", "no kind", "no verdict", "none"],
)
def test_rows_that_cannot_be_are_refused_in_one_line(rows):
    with pytest.raises(ParamsError) as caught:
        check({"claims": rows}, "claims.yml", Claims)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("rows", "verdict", "note"),
    [
        (["mnist-digits"], "holds", ""),
        (["mnist"], "does not hold", "it is 0.126 times the stated number"),
        (["mnist-again", "mnist"], "does not hold", "it is 0.126 times the stated number"),
        (["mnist-again", "mnist-third"], "holds", ""),
    ],
)
def test_a_stated_size_is_compared_with_what_the_atlas_counts(rows, verdict, note):
    answer = from_atlas(Claim(**ROW, atlas=rows))
    assert answer.found.count("3,140,385 parameters") == 1  # once, however many rows say so
    assert (answer.verdict, answer.note) == (verdict, note)


def test_the_published_cifar10_network_has_twice_the_stated_size():
    answer = from_atlas(every()["cifar10-size"])
    assert "87,983,363" in answer.found
    assert (answer.verdict, answer.note) == ("does not hold", "it is 1.96 times the stated number")


@pytest.fixture
def run(tiny, runs):
    run = open_run(tiny)
    run.note(images_seen=12_000)
    return run


def test_what_all_answers_of_a_run_rest_on_stands_once(run):
    rows = [("mnist-grain", "more", verdict("holds")), ("mnist-best", "w = 2", ("undecided", "few"))]
    text = Answers(run, rows)._repr_html_()[0]
    assert text.count("1 % of the published training") == 1
    assert "<td>difference +0.2 [0.1, 0.3]</td>" in text
    assert "<td>few</td>" in text
    alone = Answers(run, rows[1:])._repr_html_()[0]
    assert "All rest" not in alone
    assert "<td>few; 1 % of the published training" in alone


def test_a_difference_is_said_of_its_metric_and_of_a_share_in_points(run):
    notes = [
        Answers(run, [("mnist-grain", "", Verdict("holds", (0.2, 0.1, 0.3), 1, 0.01, of))]).answers[0].note
        for of in ("grain", "adherence")
    ]
    assert notes[0].startswith("difference of grain +0.2 [0.1, 0.3]; ")
    assert notes[1].startswith("difference of adherence +20 [10, 30] percentage points; ")


def verdict(outcome, trainings=1):
    return Verdict(outcome, (0.2, 0.1, 0.3), trainings)


def test_what_a_notebook_answered_is_found_in_it(run, tmp_path):
    told = Answers(run, [("mnist-grain", "grain <b>", verdict("holds")), ("mnist-best", "w = 2", ("undecided", "few"))])
    text, metadata = told._repr_html_()
    assert "<b>" not in text
    assert every()["mnist-grain"].says in text
    output = {"data": {"text/html": text}, "metadata": {"text/html": metadata}}
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}, {"source": "prose"}]}))
    found = answers(tmp_path / "page.ipynb")
    assert found == told.answers
    assert found[0].note == (
        "difference +0.2 [0.1, 0.3]; 1 % of the published training, digits for mnist at 8×8, a smaller network, stand-in text encoder, n = 30"
    )
    assert found[1][2:] == ("undecided", "few; " + found[0].note.partition("; ")[2], None, None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["no-such-claim", "", "holds"], "'no-such-claim', 'holds' is no answer to a claim"),
        (["mnist-grain", "", "perhaps"], "'perhaps' is no answer"),
        (["mnist-grain", {"a": 1}, "holds"], r"0\.1 = {'a': 1}: "),
        (["mnist-grain", "", "holds", "", [0.1, 0.2]], r"0\.4 = \[0\.1, 0\.2\]: "),
    ],
)
def test_an_answer_that_no_notebook_of_ours_gives_stops_the_page_in_one_line(row, said, tmp_path):
    output = {"metadata": {"text/html": {claims.MARK: [row]}}}
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    with pytest.raises(ParamsError, match=said) as refusal:
        answers(tmp_path / "page.ipynb")
    assert str(refusal.value).startswith("page.ipynb: ")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(("seen", "words"), [(1_200_128, "100 %"), (7_200_000, "600 %"), (90_112, "7.5 %")])
def test_the_share_of_the_training_is_a_plain_number(run, seen, words):
    run.note(images_seen=seen)
    assert fraction(run).startswith(f"{words} of the published training")


def test_where_no_publication_has_the_setting_the_words_are_of_the_data_alone(tiny, runs):
    run = open_run(tiny.replace(experiment="choices"))
    assert fraction(run) == "digits at 8×8, stand-in text encoder, n = 30"


def test_a_claim_about_training_is_undecided_by_one_training_of_each(run):
    once, thrice = (Answers(run, [("mnist-cause", "", verdict("holds", k))]).answers[0] for k in (1, 3))
    assert (once.verdict, once.effect) == ("undecided", None)
    assert "one training of each" in once.note
    assert (thrice.verdict, thrice.effect) == ("holds", [0.2, 0.1, 0.3])
    assert "over 3 trainings" in thrice.note


def test_a_model_whose_unguided_samples_are_unreadable_gives_no_verdict_but_on_speed(run):
    readable, half, real = ({"value": v} for v in (0.6, 0.5, 0.95))
    assert broken(readable, real, 10) is None
    why = broken(half, real, 10)
    assert (
        "adherence of the model's samples is 50 %, less than half way from chance (10 %) to real images (95 %)" in why
    )
    rows = [
        ("mnist-grain", "", verdict("does not hold")),
        ("wikiart-loading", "", ("holds", "")),
        ("wikiart-new", "", ("holds", "")),
    ]
    assert [a.verdict for a in Answers(run, rows, why).answers] == ["undecided", "holds", "undecided"]
    one = Answers(run, rows, {"mnist-grain": why}).answers
    assert [a.verdict for a in one] == [
        "undecided",
        "holds",
        "holds",
    ]  # a fault of the models of one claim leaves the others


def test_what_was_not_measured_decides_nothing(run):
    assert Answers(run, [("mnist-grain", "", Verdict("undecided", None, 0))]).answers[0].verdict == "undecided"


def test_an_answer_to_no_claim_and_another_outcome_are_refused(run):
    with pytest.raises(KeyError, match="no-such-claim"):
        Answers(run, [("no-such-claim", "", ("holds", ""))])
    with pytest.raises(ValueError, match="'perhaps' is no outcome; there are holds, does not hold, undecided, open"):
        Answers(run, [("mnist-grain", "", ("perhaps", ""))])


@pytest.mark.parametrize(
    ("outcomes", "one"),
    [
        ([("undecided", 1.0), ("holds", 0.02)], "holds"),
        ([("undecided", 1.0), ("undecided", 1.0), ("holds", 0.02)], "undecided"),  # 0.05 / 3 is its share
        ([("undecided", None), ("undecided", None), ("holds", 0.02)], "holds"),  # two that could not decide
        ([("holds", 0.001), ("does not hold", 0.001)], "undecided"),
        ([("undecided", None), ("undecided", 1.0)], "undecided"),
        ([("open", None)], "open"),
        ([("does not hold", None)], "does not hold"),  # by the documents' own numbers
    ],
)
def test_several_runs_answer_together_as_those_that_decide_at_their_share_of_the_level(outcomes, one):
    assert together([Answer("x", "", verdict, p=p) for verdict, p in outcomes]) == one


def test_the_page_has_a_row_for_each_claim_and_each_answer(monkeypatch):
    settled = {"answer": {"found": "1 + 1 = 2", "verdict": "does not hold"}}
    more = [{"id": "y", "says": "less is more"}, {"id": "z", "open": "a flow model"}, {"id": "v", **settled}]
    rows = {c.id: c for c in (Claim(**ROW | r) for r in [{}, *more])}
    monkeypatch.setattr(pages, "every", lambda: rows)
    found = [("a", "A", "digits", [Answer("x", "12", "holds")]), ("b", "B", "mnist", [Answer("x", "13", "undecided")])]
    page = pages.claims(found)
    assert page.count("more is better") == 3
    assert page.count("less is more") == 1
    assert page.count('<a href="a.html#x">A: digits</a>') == page.count('<a href="b.html#x">B: mnist</a>') == 1
    assert page.count('<div class="rests">no run yet</div>') == 1
    assert re.search("… open.*a flow model", page)
    assert "<td>together</td><td>1</td><td>1</td><td>0</td><td>2</td><td>4</td>" in page
    assert re.search("✗ does not hold.*1 \\+ 1 = 2.*the documents", page)
    assert claims.FILE.name == "claims.yml"


def test_the_page_shows_of_each_outcome_the_claims_that_have_it_or_hides_all_their_rows():
    found = [Answer("mnist-grain", "", "holds", p=0.001), Answer("mnist-grain", "", "undecided", p=1.0)]
    page = pages.claims([(name, name, "digits", [a]) for name, a in zip("ab", found, strict=True)])
    style = (BOOK / "_static" / "custom.css").read_text()
    for kind, _ in claims.OUTCOMES.values():
        assert page.count(f'<input type="checkbox" name="{kind}"{" checked" * (kind != "open")}>') == 1
        assert f'.filter [name="{kind}"]:not(:checked)) tr:has(.of-{kind})' in style
    assert re.findall(r'id="mnist-grain" class="verdict holds of-(\w+)"', page) == ["holds"]
    assert page.count('class="verdict undecided of-holds"') == 1  # the second run's, which the claim's outcome keeps
    assert page.count('"verdict ') == len(re.findall(r'class="verdict \w+ of-\w+"', page)) >= len(every()) + 1


def test_a_forest_plot_is_to_scale_and_its_words_do_not_shrink_with_the_page():
    effects = {"a": [0.5, 0.0, 1.0], "b": [-0.2, -0.3, -0.1], "c": [9.0, 8.9, 9.1], "d": None}
    shown = claims.forest([Answer(k, "", "holds", effect=e, note="n < 3 & so on") for k, e in effects.items()])
    bars = re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%".*?cx="([\d.]+)%"', shown)
    found = {k: [round((float(x) - 50) / 5, 2) for x in bar] for k, bar in zip("abc", bars, strict=True)}
    assert found == {"a": [0.0, 2.0, 1.0], "b": [-3.0, -1.0, -2.0], "c": [7.0, 9.0, 8.0]}  # at most 8 half widths
    assert shown.count("n &lt; 3 &amp; so on") == 3
    assert "viewBox" not in shown
    assert "<text" not in shown  # words are the page's own
    assert "\n\n" not in shown
    assert claims.forest([]) == ""


def test_a_document_is_named_in_words_of_the_bibliography():
    page = pages.claims([])
    assert re.findall("^## (.*)", page, re.M) == [
        "Domnenco, 2026",
        "Shah et al., 2024",
        "Sahu, 2025",
        "Kuznedelev, undated",
        "Li et al., 2024",
        "Kynkäänniemi et al., 2024",
        "Chung et al., 2024",
        "Sadat et al., 2024",
        "Lin et al., 2024",
        "Karras et al., 2024",
        "Dhariwal and Nichol, 2021",
        "Esser et al., 2024",
        "Salimans and Ho, 2022",
    ]
    assert "*Enhancing Diffusion Models for High-Quality Image Generation* {cite}`shah2024`" in page
    assert "CLIP-Conditioned" in page
    assert pages._document("dhariwal2021")[0] == "Dhariwal and Nichol, 2021"
    assert pages._document("immerkaer1996")[0] == "Immerkær, 1996"

"""What a page says first: from its own answers and records, the strongest run before the others, and no word that another could have."""

import html
import itertools
import json
import re
import shlex

import numpy as np
import pytest
import yaml
from PIL import Image
from test_own import captions
from test_own import params as own_params

from bench.__main__ import setting
from guidebook.book import build, front, trace
from guidebook.book.chapter import Chapter, evidence
from guidebook.book.stage import ROW, _linked, stage, switch
from guidebook.config.params import load, load_file
from guidebook.config.paths import NOTEBOOKS, RESULTS, ROOT
from guidebook.config.yamlfile import overrides
from guidebook.report.claims import Answer, Answers, every
from guidebook.report.findings import MOST, findings, measured, ranked, recognisable
from guidebook.report.source import used
from guidebook.runs.run import open_run, opened
from guidebook.sampling.draw import sample_set
from guidebook.sampling.spec import usual

RUNS = [opened(path.parent) for path in sorted(RESULTS.glob("*/*/params.yml"))]
OF = {name: [*runs] for name, runs in itertools.groupby(RUNS, key=lambda r: r.params.experiment)}
MNIST = opened(RESULTS / "mnist" / "paper")
ANSWERED = {
    "cell_type": "code",
    "outputs": [{"data": {"text/html": '<span id="mnist-grain" class="verdict holds">✓</span>'}}],
}
IDS = [c.id for c in every().values() if c.kind == "samples"]


def answer(
    i: int, verdict="holds", p=0.01, note="difference +1 [0.5, 1.5]", found="grain 1.0 [0.9, 1.1] at w = 5"
) -> Answer:
    return Answer(IDS[i], found, verdict, note, None, p)


def text(markup: str) -> str:
    return html.unescape(re.sub("<[^>]+>", "", markup))


def chapter(run, answers=(), file="experiments/mnist") -> tuple[Chapter, list[Answer]]:
    return Chapter(file, run, (NOTEBOOKS / f"{run.params.experiment}.ipynb",)), [*answers]


# The order of runs


@pytest.mark.parametrize("name", [name for name, runs in OF.items() if len(runs) > 1])
def test_published_data_come_before_others_and_images_that_were_taken_before_those_drawn(name):
    ordered = sorted(OF[name], key=evidence)
    drawn = [r.params.data.entry.stand_in is None for r in ordered]
    assert drawn == sorted(drawn)
    assert drawn[0] is False


def test_of_runs_on_the_same_data_the_one_nearest_to_the_published_length_is_first(runs, tiny):
    lengths = {"demo": 4, "best": 2, "paper": 1}
    made = [open_run(tiny.replace(profile=p, train={"epochs": n})) for p, n in lengths.items()]
    made += [open_run(tiny.replace(profile="fraction", train={"epochs": 1}))]
    assert [r.params.profile for r in sorted(made, key=evidence)] == ["demo", "best", "paper", "fraction"]
    made[2].note(images_seen=100_000)  # what it saw counts, not what it was to see
    assert min(made, key=evidence) == made[2]


def test_the_switch_marks_the_page_it_stands_on_and_links_the_others_in_their_order():
    ordered = [chapter(r, file=f"experiments/x-{r.params.profile}")[0] for r in sorted(OF["cifar10"], key=evidence)]
    for shown in ordered:
        links = re.findall(r'<a href="([\w.-]+)"( aria-current="page")?>', switch(ordered, shown))
        assert [place for place, _ in links] == ["x-paper.html", "x-best.html", "x-demo.html"]
        assert [place for place, here in links if here] == [f"x-{shown.run.params.profile}.html"]


# Findings


def test_verdicts_that_were_decided_come_first_those_at_the_smallest_level_before_the_others():
    given = [answer(0, "undecided", 1.0), answer(1, p=0.04), answer(2, "does not hold", 1e-9), answer(3, p=None)]
    assert [a.claim for a in ranked(given)] == [IDS[i] for i in (3, 2, 1, 0)]
    shown = findings(MNIST, given, {})
    assert re.findall(r"how it was decided", shown) == ["how it was decided"] * 3
    assert "undecided" not in shown


def test_at_most_five_stand_at_the_top_and_how_many_are_left_is_said():
    shown = findings(MNIST, [answer(i) for i in range(MOST + 3)], {})
    assert shown.count("<li>") == MOST
    assert f"The clearest {MOST} of {MOST + 3} verdicts" in shown


def test_each_finding_leads_to_its_claim_to_how_it_was_decided_and_to_the_figure_that_shows_it():
    shown = findings(MNIST, [answer(0)], {"grain": "figure-grain", "diversity": "figure-other"})
    measures = "../how-to-read.html#measures"
    assert re.findall('href="(.*?)"', shown) == ["#figure-grain", f"#{IDS[0]}", f"../claims.html#{IDS[0]}", measures]
    assert "figure" not in findings(MNIST, [answer(0)], {"diversity": "figure-other"})


def test_a_run_that_decides_nothing_says_so_in_one_sentence_with_the_reason():
    why = "the model is not trained far enough"
    given = [
        answer(0, "undecided", 1.0, f"{why}; difference +1 [0, 2]"),
        answer(1, "undecided", None, why, "not measured"),
    ]
    shown = text(findings(MNIST, given, {}))
    assert shown.startswith(f"This run decides none of the 2 claims that it tests: {why}.")
    assert "grain 1.0 [0.9, 1.1]" in shown
    assert "not measured" not in shown
    open_ = text(findings(MNIST, [answer(0, "undecided", 1.0)], {}))
    assert open_.startswith(
        "This run does not decide the claim that it tests: no interval of a difference leaves out zero."
    )


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r.name)
def test_a_run_without_answers_says_what_it_measured_with_interval_and_count(run):
    found = measured(run)
    assert 1 <= len(found) <= 3
    assert all(re.search(r"\[-?[\d.]+, [\d.]+\]", words) and " n = " in words for words in found)
    assert text(findings(run, [], {})).count(found[0]) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("imagenet100/imagenette", r"^The samples are recognisable: at w = 5, its best, the judge reads 65\.8 % \[.*\] of them as asked, n = 500; guessing gives 10 %, real images 81"),
     ("samplers/paper", r"^The samples are not recognisable yet: at w = 2, its best, the judge reads 29\.0 %"),
     ("wikiart/fraction", "^$")],  # whose judge reads a third of real paintings
)  # fmt: skip
def test_whether_samples_are_recognisable_is_said_by_what_the_judge_reads(name, said):
    run = opened(RESULTS / name)
    assert re.search(said, recognisable(run))
    begins = f"<p>{recognisable(run)}</p>" if recognisable(run) else "<ul>"
    assert findings(run, [], {}).startswith(f'<div class="findings">{begins}')


@pytest.mark.parametrize(
    ("epochs", "said"), [(1, "are not recognisable yet: 36 images"), (7000, "may be recognisable: 252,000")]
)
def test_of_images_that_no_judge_reads_it_is_said_by_the_length_of_the_training(runs, tmp_path, epochs, said):
    run = open_run(
        own_params(captions(tmp_path / "birds"), caption="{label}").replace(train={"epochs": epochs, "batch": 4})
    )
    assert said in recognisable(run)
    assert "of the published training on photographs (cifar10/paper); no judge" in text(findings(run, [], {}))


def test_two_runs_never_say_the_same():
    said = {r.name: tuple(measured(r)) for r in RUNS}
    assert len({*said.values()}) == len(said)


def test_a_run_without_a_number_says_that(runs, tiny):
    assert "Nothing was measured" in findings(open_run(tiny), [], {})


def test_what_an_answer_says_is_text():
    shown = findings(MNIST, [answer(0, found="<script>x</script>", note="<b>")], {})
    assert "<script>" not in shown
    assert "<b>" not in shown


# The page


@pytest.fixture
def staged(tmp_path):
    """The cells of a page of MNIST's run, whose one figure shows grain and whose answers are these."""

    def make(group=True):
        shown, facts = Answers(MNIST, [("mnist-grain", "grain 2", ("holds", "a"))])._repr_html_()
        html_out = {
            "output_type": "display_data",
            "data": {"text/html": shown},
            "metadata": {"text/html": {**facts, "guidebook_claims": [a._asdict() for a in facts["guidebook_claims"]]}},
        }
        png = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": {}}

        def code(source, *outputs):
            return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [*outputs], "execution_count": 1}

        title = {"cell_type": "markdown", "source": "# MNIST: does it?\n\nA question.", "metadata": {}}
        cells = [
            title,
            code('plot("grain")', png),
            code("from guidebook.metrics.compare import above\nAnswers(above)", html_out),
        ]
        for name in ("mnist", "executed"):
            (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}))
        (tmp_path / "experiments").mkdir(exist_ok=True)
        c = Chapter("experiments/page", MNIST, (tmp_path / "mnist.ipynb", tmp_path / "executed.ipynb"))
        stage(c, [], [c] if group else [], tmp_path, print)
        return json.loads((tmp_path / "experiments/page.ipynb").read_text())["cells"]

    return make


def test_a_page_opens_with_its_question_its_run_and_what_was_found(staged):
    assert [c.get("id") for c in staged()][:5] == ["title", "runs", "question", "run-banner", "found"]
    assert [c.get("id") for c in staged(False)][:2] == ["title", "run-banner"]  # the explorer's


def test_a_verdict_on_a_page_is_an_anchor_that_leads_to_its_claim_and_below_it_stands_the_way_to_the_code(staged):
    cells = staged()
    (table,) = (o["data"]["text/html"] for c in cells for o in c.get("outputs", ()) if "text/html" in o["data"])
    assert 'id="mnist-grain"' in table
    assert 'href="../claims.html#mnist-grain"' in table
    assert not ROW.search(table)
    assert re.findall('href="(.*?)"', cells[-1]["source"]) == ["#run", "#params", "#again", "#code"]


def test_a_figure_that_a_finding_speaks_of_has_the_anchor_that_it_links(staged):
    cells = ["".join(c["source"]) for c in staged()]
    (above,) = (i for i, text in enumerate(cells) if 'id="figure-grain"' in text)
    assert cells[above + 1] == 'plot("grain")'
    assert 'href="#figure-grain"' in next(text for text in cells if "What was found" in text)


# From a run to what made it


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r.name)
def test_the_command_of_a_record_reads_its_parameters(run):
    guidebook, verb, file = shlex.split(trace.command(run))
    assert (guidebook, verb) == ("guidebook", "run")
    assert load_file(ROOT / file).training_key == run.params.training_key


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r.name)
def test_the_command_of_a_live_run_makes_the_same_training_samples_and_measurements(run):
    live = type(run)(run.params, run.path, recorded=False)
    _, _, experiment, flag, profile, *changes = shlex.split(trace.command(live))
    made = load(experiment, profile, overrides(changes[1::2]))
    assert flag == "--profile"
    assert {*changes[::2]} <= {"--set"}
    for section in ("sample", "objective", "model", "text"):
        mine, theirs = (str(getattr(p, section)) for p in (made, run.params))
        assert mine == re.sub("@[0-9a-f]{8}", "", theirs)  # the version of what it starts from
    assert made.evaluate.samples == run.params.evaluate.samples


@pytest.mark.parametrize("name", ["six-images", "performance"])
def test_a_page_of_no_run_says_how_its_records_were_made_by_which_command_and_with_what_code(name):
    c = Chapter(name, None, (NOTEBOOKS / f"{name}.ipynb", None, {}, None, [RESULTS / build.MEASURED[name]]))
    of, values, again = trace.measured(c)
    made = yaml.safe_load(values)
    assert [f"{file}.json" for file in made] == re.findall("<code>(.*?)</code>", of)
    for command, how in zip(again.splitlines(), made.values(), strict=True):
        given = dict(zip(*[iter(shlex.split(command)[4:])] * 2, strict=True))
        params = setting(shlex.split(command)[3], given.get("--experiment"), given.get("--profile"))
        assert (params.experiment, params.profile) == (
            how.get("experiment", "cifar10"),
            how.get("profile", "paper").replace("reduced", "paper"),
        )
    shown = trace.functions([c])
    assert all(f":name: {trace.anchor(place)}\n" in shown for place in trace.places(c))
    links = re.findall('href="(.*?)"', trace.folds(c) + _linked([ANSWERED], c)[0]["outputs"][0]["data"]["text/html"])
    assert links[-1] == "claims.html#mnist-grain"
    assert {link.partition("#")[0] for link in links[1:-1]} == {"code.html"}
    assert links[0] == f"notebooks/{name}.ipynb"


def test_code_that_a_page_calls_is_found_where_it_is_defined():
    code = "from guidebook import training\nfrom guidebook.metrics.compare import above as more\nfrom guidebook.report import charts\nmore(training.train(1))\ncharts.tradeoff(2)\n"
    assert used(code) == ["metrics.compare:above", "training:train"]


@pytest.mark.parametrize("name", [*OF])
def test_the_code_of_every_experiment_is_on_the_page_of_code(name):
    c, _ = chapter(OF[name][0], file=f"experiments/{name}")
    shown, places = trace.functions([c]), trace.places(c)
    assert len(places) > 5
    cells = [c["source"] for c in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]]
    decides = "\n".join(text for source in cells if "Answers(" in (text := "".join(source)))
    named = [bool(re.search(rf"\b{place.partition(':')[2]}\b", decides)) for place in places]
    assert named == sorted(named, reverse=True)
    assert named[0]
    for place in places:
        assert f":name: {trace.anchor(place)}\n" in shown
        assert re.search(rf"^(def|class) {place.partition(':')[2]}\b", shown, re.M)
    assert f'href="experiments/{name}.html#code"' in shown


# The first page


def test_a_finding_that_another_page_contradicts_is_not_on_the_first_page():
    one, other = opened(RESULTS / "samplers/demo"), MNIST
    a, against, b = answer(0, p=1e-9), answer(0, "does not hold", 1e-9), answer(1, p=1e-9)
    assert front.chosen([chapter(one, [a]), chapter(other, [b])]) != []
    assert [x.claim for _, x in front.chosen([chapter(one, [a, b]), chapter(other, [against])])] == [IDS[1]]


def test_the_first_page_shows_published_data_first_and_one_finding_of_an_experiment():
    demo, paper = (
        chapter(opened(RESULTS / place), [answer(i), answer(i + 2)])
        for i, place in enumerate(("sweep/demo", "mnist/paper"))
    )
    assert [c.run.name for c, _ in front.chosen([demo, paper])] == ["mnist/paper", "sweep/demo"]


def test_every_claim_is_counted_once():
    shown = front.tally([chapter(MNIST, [answer(0)])], str)
    first, *others = (
        sum(map(int, re.findall(r"\b(\d+)\b", text(re.sub(r"<span>.*?</span>", "", row)))))
        for row in shown.split("</a>")[:-1]
    )
    assert first == sum(others) == len(every())


def test_with_no_run_the_first_page_says_how_to_make_one(tmp_path):
    assert "guidebook run mnist" in front.findings([])
    assert "<img" not in front.strips([], tmp_path)
    assert front.scale([], []).startswith("0 runs of 0 experiments")


def test_samples_of_the_first_page_are_named_for_the_data_that_their_model_learnt(tmp_path):
    (run,) = (r for r in RUNS if r.name == "imagenet100/imagenette")
    shown = front.strips([chapter(run, file="experiments/imagenet100")[0]], tmp_path)
    assert text(shown).startswith("Imagenette, 32×32, w = ")
    assert 'alt="10 samples of Imagenette, 32×32, w = ' in shown
    assert "ImageNet-100" not in shown


def test_the_samples_of_the_first_page_are_those_of_the_record_pixel_by_pixel(tmp_path):
    c, _ = chapter(MNIST)
    shown = front.strips([c], tmp_path / "front")
    with Image.open(tmp_path / "front/mnist.png") as image:
        strip = np.asarray(image)
    w = float(re.search(r"w = (\d+)", shown)[1])
    (record,) = (r for r in usual(MNIST, "adherence") if r["guidance"] == w)
    assert w <= front.LARGEST
    assert record["value"] == max(r["value"] for r in usual(MNIST, "adherence") if r["guidance"] <= front.LARGEST)
    assert (strip == np.concatenate([x[0] for x in sample_set(MNIST, record["draw"]).pixels[:10]], -1)).all()
    assert f'href="{c.file}.html"' in shown

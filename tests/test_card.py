"""A card says what the run folder says, all of it that matters, and no number that nothing was measured for."""

import html
import re

import numpy as np
import pytest
import torch
import yaml

from guidebook.config import params as P
from guidebook.config.paths import RESULTS
from guidebook.config.sampling import Guidance
from guidebook.diffusion.solvers import SCHEDULERS as SAMPLERS
from guidebook.export.card import SCHEDULERS, SHOWN, card
from guidebook.export.pipeline import export
from guidebook.report.tables import with_interval
from guidebook.runs.run import Run, open_run, opened
from guidebook.sampling.draw import draw
from guidebook.sampling.spec import Draw

RECORDS = sorted(path.parent for path in RESULTS.glob("*/*/metrics.json"))


def record(metric: str, value: float, **known) -> dict:
    """A metric record like those of `guidebook.metrics.subject`."""
    usual = {"interval": "jackknife", "n": 1234, "guidance": 2.0, "draw": None, "seconds_per_image": 0.1}
    known = usual | {"extractor": "judge-x", "reference": "train split"} | known
    return {"metric": metric, "value": value, "low": value - 1, "high": value + 1, **known}


@pytest.fixture
def run(trained_run):
    return trained_run


def cells(*texts: str) -> str:
    return "".join(f"<td>{html.escape(text)}</td>" for text in texts)


def front(text: str) -> dict:
    _, facts, _ = text.split("---\n", 2)
    return yaml.safe_load(facts)


def test_its_front_matter_is_what_the_hub_reads(run):
    facts = front(card(run))
    assert facts["license"] == "mit"
    assert facts["library_name"] == "diffusers"
    assert facts["pipeline_tag"] == "text-to-image"
    assert "datasets" not in facts
    assert front(card(Run(P.load("mnist", "paper"), run.path, False)))["datasets"] == ["ylecun/mnist"]


def test_where_no_licence_is_stated_none_is_made_up(run, tmp_path, monkeypatch):
    monkeypatch.setattr("guidebook.export.card.ROOT", tmp_path)
    assert "license" not in front(card(run))
    (tmp_path / "CITATION.cff").write_text("title: none\n")
    assert "license" not in front(card(run))


def test_it_holds_every_record_with_its_interval_count_and_extractor(run):
    plain = Draw.of(run.params, 2.0, 1234, weights="raw")
    other = Draw.of(run.params, Guidance(w=2.0, between=(0.5, 5.0)), 1234, prompt="a | b")
    records = [
        record("fd_judge", 12.34, draw=plain.json),
        record("adherence", 0.5, extractor="judge-y", n=77),
        record("diversity", 4.0, guidance=None),
        record("grain", 7.0, draw=other.json),
    ]
    run.add_metrics(records)
    rows = re.findall("<tr>(<td>.*?)</tr>", card(run))
    assert len(rows) == len(records)
    for r, row in zip(records, rows, strict=True):
        w = "real images" if r["guidance"] is None else "2"
        first = (r["metric"], w, with_interval(r), f"{r['n']:,}", "jackknife", r["extractor"], "train split")
        assert row.startswith(cells(*first))
        assert row.count("<td>") == 9
    assert rows[0].endswith(cells("raw", "ddpm, 2 steps, seed 422"))
    assert "prompt “a | b”" in rows[3]
    assert "0.5 &lt; σ ≤ 5" in rows[3]


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_the_card_of_every_recorded_run_holds_its_records_and_its_cost(path):
    found = opened(path)
    text, facts = card(found), found.provenance()
    records = found.metrics()
    assert text.count("<tr>") == len(records) + 1
    for r in records:
        assert cells(with_interval(r), f"{r['n']:,}", r["interval"], r["extractor"], r["reference"] or "") in text
    assert f"{facts['images_seen']:,} images seen" in text
    assert facts["data"]["fingerprint"] in text
    assert facts["commit"] in text


def test_what_nothing_was_measured_for_is_left_out(runs, tiny):
    text = card(open_run(tiny))
    assert "## Measured" not in text
    assert "## What training cost" not in text
    assert "images seen" not in text
    assert "## What it is not for" in text


def test_stand_ins_are_called_so(run, tiny):
    text = card(run)
    assert "**It holds stand-ins" in text
    for which in ("stand-in data (`digits`)", "a stand-in text encoder", "a small stand-in for MNIST"):
        assert which in text
    assert "a stand-in autoencoder" not in text
    for vae in ("embedded", "embedded-16"):
        latent = card(Run(P.load("celeba", "demo").replace(model={"vae": vae}), run.path, False))
        assert "a stand-in autoencoder" in latent
        assert "what the stand-in autoencoder cost is not in this" in latent
    real = tiny.replace(data={"name": "mnist"}, text={"encoder": "openai/clip-vit-base-patch32"})
    bare = Run(real, run.path.with_name("real"), False)
    assert "stand-in" not in card(bare)


def test_its_code_draws_the_first_images_of_the_study(run, monkeypatch):
    images = draw(run, 5.0, 10).images[:SHOWN]
    monkeypatch.chdir(export(run))
    text = card(run)
    assert "w = 5: the images are the same." in text
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    names["pipe"].set_progress_bar_config(disable=True)
    seen = torch.from_numpy(np.stack([np.asarray(image) for image in names["images"]]))
    assert (seen.int() - images[:, 0].int()).abs().max() <= 1


def test_it_says_where_the_study_drew_in_another_precision(run):
    half = Run(run.params.replace(train={"precision": "bf16"}), run.path, False)
    assert "the same but for rounding, as the study drew in bf16" in card(half)


def test_of_faces_it_claims_the_studys_images_only_where_it_knows_their_captions(runs):
    found = Run(P.load("celeba", "demo"), runs / "none", False)
    text = card(found)
    assert text.count("    'A ") == SHOWN
    assert "study's first" not in text


def test_text_from_a_run_folder_can_begin_nothing(run):
    run.note(data_note="harmless\n## Not harmless <script>", device="a|b`c")
    run.add_metrics([record("x|y\n## z", 1.0)])
    text = card(run)
    assert "\n## Not" not in text
    assert "\n## z" not in text
    assert "<script" not in text
    assert "<td>x|y ## z</td>" in text


def test_the_same_run_has_the_same_card(run):
    assert card(run) == card(Run(run.params, run.path, False))


def test_schedulers_have_the_names_of_their_classes():
    assert SAMPLERS == SCHEDULERS

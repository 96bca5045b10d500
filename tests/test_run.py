"""Run folders: found again by what training depends on, recorded without weights, redrawn and never continued."""

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from forks import executed

from guidebook.book.notebook import _kernel_environment
from guidebook.book.status import overview, state
from guidebook.config import paths
from guidebook.config.datasets import DataError
from guidebook.config.params import ParamsError, load
from guidebook.config.paths import ROOT
from guidebook.metrics.measure import measure, measure_real
from guidebook.runs import run as module
from guidebook.runs.executed import complete, sign
from guidebook.runs.lock import Locked, lock
from guidebook.runs.manifest import Corrupt
from guidebook.runs.preemption import Preempted, current
from guidebook.runs.recording import begun, record, removed
from guidebook.runs.run import NotRecorded, every_run, find, folder, foremost, open_run, opened
from guidebook.sampling.draw import draw
from guidebook.sampling.explore import trajectory
from guidebook.sampling.sampler import draw_now
from guidebook.sampling.sets import image_set
from guidebook.training.loop import train
from guidebook.training.model import load_model
from guidebook.training.step import Trainer

METRIC = {"metric": "adherence", "value": 0.5, "low": 0.4, "high": 0.6, "n": 130, "guidance": 1.0, "key": "0123abcd"}
DROPOUT = {"train": {"caption_dropout": 0.1}}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run with one variant, each trained and with two sets of samples, and a notebook that counts as complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp("trained")))
        run = open_run(tiny)
        for each in (run, run.variant("caption-dropout", **DROPOUT)):
            train(each)
            draw(each, 1.0, 130)
            trajectory(each, 5.0)
            each.add_metrics([METRIC])
        executed(run.path)
        return run


@pytest.fixture
def live(trained, runs):
    """A copy of it in the test's own folder of runs."""
    shutil.copytree(trained.path, folder(trained.params))
    return opened(folder(trained.params))


@pytest.fixture
def recorded(live):
    return opened(record(live))


def files(path) -> dict:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def age(file, seconds):
    """As if the file was written so long ago."""
    then = time.time() - seconds
    os.utime(file, (then, then))


# Where a run lies


def test_a_run_lies_in_a_folder_named_by_what_training_depends_on(runs, tiny):
    assert open_run(tiny).path == runs / "mnist" / f"smoke-{tiny.training_key}"


def test_a_run_is_found_again_when_only_what_follows_training_changes(runs, tiny):
    first = open_run(tiny)
    second = open_run(tiny.replace(sample={"guidance": [7]}, evaluate={"samples": 40}))
    assert second.path == first.path
    assert opened(first.path).params.sample.guidance == (7,)


def test_places_that_are_set_to_nothing_are_those_of_the_checkout(monkeypatch):
    for name in ("GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "GUIDEBOOK_ROOT"):
        monkeypatch.setenv(name, "")
    assert paths.runs() == ROOT / "runs"
    code = "from guidebook.config import paths; print(paths.ROOT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(ROOT)
    assert _kernel_environment(None, None)["GUIDEBOOK_RUNS"] == ""  # a kernel works in another folder


def test_another_training_gets_another_folder(runs, tiny):
    assert open_run(tiny.replace(train={"lr": 0.5})).path != open_run(tiny).path


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="is not a run folder"):
        opened(tmp_path)


def test_a_variant_lies_inside_its_run_and_bears_its_name(runs, tiny):
    run = open_run(tiny)
    variant = run.variant("caption-dropout", **DROPOUT)
    assert variant.path.parent == run.path / "variants"
    assert variant.name == "mnist/smoke · caption-dropout"
    assert variant.params == tiny.replace(**DROPOUT)
    assert run.variant("caption-dropout", train={"caption_dropout": 0.2}).path != variant.path


def test_a_mistyped_variant_is_refused(runs, tiny):
    with pytest.raises(ParamsError, match=r"train\.caption_droput is not a parameter \(nearest: caption_dropout\)"):
        open_run(tiny).variant("x", train={"caption_droput": 0.1})


# What a run says of itself


def test_provenance_says_which_code_and_which_versions(trained):
    facts = trained.provenance()
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert len(facts["commit"]) == 40
        assert isinstance(facts["dirty"], bool)
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"guidebook", "python", "diffusers", "transformers", "accelerate", "numpy", "scipy"} <= set(
        facts["versions"]
    )
    assert (facts["images_seen"], facts["updates"]) == (128, 8)
    assert facts["data"]["source"] == "scikit-learn"
    assert facts["device"]


def test_a_run_without_git_says_that_its_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module.commit.__wrapped__() == {"commit": None, "dirty": None}


def test_provenance_of_an_opened_run_stays_that_of_its_training(live):
    before = live.provenance()
    open_run(live.params)
    assert live.provenance() == before


def test_no_record_names_a_place_or_the_host_of_this_machine(recorded):
    text = "".join(p.read_text() for p in recorded.path.rglob("*") if p.suffix in (".json", ".jsonl", ".yml"))
    private = [
        str(ROOT),
        str(Path.home()),
        str(recorded.path),
        os.environ["GUIDEBOOK_RUNS"],
        f'"{socket.gethostname()}"',
    ]
    assert len(text) > 2000
    assert [p for p in private if p in text] == []


def test_a_line_of_statistics_cut_short_is_left_out(live):
    rows = live.stats()
    assert [row["nimg"] for row in rows] == [64, 128]
    with open(live.path / "stats.jsonl", "a") as file:
        file.write('{"nimg": 192, "lo')
    assert live.stats() == rows


def test_metrics_are_found_by_their_fields(live):
    live.add_metrics([METRIC | {"metric": "grain"}])
    assert live.metrics(metric="grain") == [METRIC | {"metric": "grain"}]
    assert live.metrics(metric="grain", guidance=2.0) == []
    assert len(live.metrics()) == 2


def test_metrics_are_read_anew_when_their_file_is_another_and_belong_to_whoever_asked(live):
    live.metrics()[0].clear()
    assert live.metrics() == [METRIC]
    file = live.path / "metrics.json"
    time.sleep(0.01)  # more than a tick of the clock of files
    file.write_text(file.read_text().replace("0.", "1.", 1))  # as long as before
    with pytest.raises(Corrupt):
        live.metrics()


def test_a_metric_that_is_not_a_number_is_refused_and_the_others_stay(live):
    with pytest.raises(ValueError, match="not JSON compliant"):
        live.add_metrics([METRIC | {"value": float("nan")}])
    assert live.metrics() == [METRIC]


# Records


def test_a_record_holds_no_weights_no_checkpoints_and_no_notebook(recorded, live):
    kept = {Path(name).name for name in files(recorded.path)}
    assert kept == {
        "params.yml",
        "provenance.json",
        "stats.jsonl",
        "metrics.json",
        "set.json",
        "sheet.png",
        "manifest.json",
    }
    size = sum(len(raw) for raw in files(recorded.path).values())
    assert size < 200_000 < sum(len(raw) for raw in files(live.path).values())


def test_a_record_lies_under_its_profile_and_its_variants_lose_their_key(recorded, live):
    assert recorded.path == module.RESULTS / "mnist" / "smoke"
    assert recorded.recorded
    assert [p.name for p in (recorded.path / "variants").iterdir()] == ["caption-dropout"]
    assert recorded.variant("caption-dropout", **DROPOUT).name == live.variant("caption-dropout", **DROPOUT).name


@pytest.mark.parametrize("name", ["mnist/zzz", "mnsit/smoke", "mnist/smoke/variants/A `{download}`"])
def test_a_record_in_another_place_than_its_parameters_say_is_refused_by_name(name, recorded, caplog):
    source = recorded.path / "variants/caption-dropout" if "variants" in name else recorded.path
    shutil.copytree(source, module.RESULTS / name)
    with pytest.raises(ParamsError, match=r"calls itself mnist/smoke|variant 'A"):
        opened(module.RESULTS / name)
    assert {run.path for run in every_run() if run.recorded} == {
        recorded.path,
        recorded.path / "variants/caption-dropout",
    }
    assert "left out: " in caplog.text


def test_a_manifest_that_names_a_file_of_another_folder_reads_none(recorded, tmp_path, monkeypatch):
    outside, file = tmp_path / "outside.txt", recorded.path / "manifest.json"
    outside.write_text("of the builder")
    names = json.loads(file.read_text()) | {str(outside): hashlib.sha256(outside.read_bytes()).hexdigest()}
    file.write_text(json.dumps(names, indent=1))
    with pytest.raises(Corrupt, match=r"manifest\.json is not what was written"):
        opened(recorded.path)


@pytest.mark.parametrize("file", ["", "params.yml", "provenance.json", "variants", "samples"])
def test_a_record_with_a_link_is_neither_read_nor_taken_for_a_live_run(file, recorded, tmp_path):
    moved = (recorded.path / file).rename(tmp_path / "elsewhere")
    (recorded.path / file).symlink_to(moved)
    with pytest.raises(ParamsError, match=r"mnist/smoke holds a link or a device, \S+: "):
        opened(recorded.path)
    assert [run for run in foremost(every_run()) if run.path == recorded.path] == []


def test_a_record_without_its_parameters_is_named_and_left_out(recorded, caplog):
    (recorded.path / "params.yml").unlink()
    assert recorded.path not in [run.path for run in every_run()]
    assert f"left out: {recorded.path}: " in caplog.text
    assert "holds no params.yml" in caplog.text
    shutil.rmtree(recorded.path)
    (module.RESULTS / "bench").mkdir()
    (module.RESULTS / "bench" / "report.json").touch()
    caplog.clear()
    every_run()
    assert caplog.text == ""


def test_a_record_with_a_pipe_is_refused_and_not_waited_for(recorded):
    (recorded.path / "metrics.json").unlink()
    os.mkfifo(recorded.path / "metrics.json")
    with pytest.raises(ParamsError, match=r"a link or a device, metrics\.json"):
        opened(recorded.path)


def test_a_link_to_a_record_is_that_record(recorded, runs):
    (runs / "mnist/smoke-0123abcd").symlink_to(recorded.path)
    assert opened(runs / "mnist/smoke-0123abcd").recorded


def test_of_variants_with_one_name_the_newest_is_recorded(live):
    newest = live.variant("caption-dropout", train={"caption_dropout": 0.3})
    for variant in (live.path / "variants").iterdir():
        if variant != newest.path:
            age(variant / "params.yml", 100)
    assert opened(record(live) / "variants" / "caption-dropout").params == newest.params


def test_an_unfinished_run_is_not_recorded(live):
    (live.path / "notebook.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="guidebook run"):
        record(live)
    assert not module.RESULTS.exists()


def test_a_run_recorded_again_replaces_its_record(live):
    record(live)
    live.add_metrics([METRIC | {"guidance": 5.0}])
    shutil.rmtree(next(live.path.glob("samples/trajectory-*")))
    again = opened(record(live))
    assert len(again.metrics()) == 2
    assert len(list(again.path.glob("samples/*"))) == 1
    assert [p.name for p in again.path.parent.iterdir()] == ["smoke"]


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("damage", [half, flipped, Path.unlink])
@pytest.mark.parametrize(
    "name", ["params.yml", "metrics.json", "stats.jsonl", "provenance.json", "notebook.ipynb", "sheet.png", "set.json",
             "images.safetensors", "variants/*/metrics.json"],
)  # fmt: skip
def test_what_is_not_what_was_written_is_not_recorded_and_the_record_before_stays(live, name, damage):
    before = files(record(live))
    file = next(f for pattern in (name, f"samples/w1-*/{name}") for f in live.path.glob(pattern))
    damage(file)
    if damage is Path.unlink and file.name in ("params.yml", "metrics.json"):
        return  # then it is no run, or one of which nothing is measured
    with pytest.raises((Corrupt, FileNotFoundError), match=file.name) as refusal:
        record(opened(live.path))
    assert len(str(refusal.value).splitlines()) == 1
    assert files(module.RESULTS / "mnist" / "smoke") == before
    assert [p.name for p in (module.RESULTS / "mnist").iterdir()] == ["smoke"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed"])
def test_a_record_takes_the_place_of_the_one_before_at_once(live, monkeypatch, exchange):
    """Where a disk cannot exchange two folders, the one before has another name for a moment."""
    if not exchange:
        monkeypatch.setattr("ctypes.CDLL", lambda _: types.SimpleNamespace(renameat2=lambda *_: -1))
    record(live)
    live.add_metrics([METRIC | {"guidance": 5.0}])
    assert len(opened(record(live)).metrics()) == 2
    assert [p.name for p in (module.RESULTS / "mnist").iterdir()] == ["smoke"]


def test_a_record_whose_bytes_changed_is_not_redrawn(recorded, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RECORD", str(recorded.path))
    for name in ("params.yml", "metrics.json", "stats.jsonl", "provenance.json", "manifest.json"):
        kept = (recorded.path / name).read_bytes()
        flipped(recorded.path / name)
        with pytest.raises(Corrupt, match="is not what was written; `guidebook record` its run again"):
            open_run(recorded.params)
        (recorded.path / name).write_bytes(kept)
    flipped(next(recorded.path.glob("samples/w1-*/sheet.png")))
    with pytest.raises(Corrupt, match=r"sheet\.png"):
        draw(open_run(recorded.params), 1.0, 130)


@pytest.mark.parametrize("size", [0, 5, 12, 200])
def test_params_that_were_cut_are_not_taken_for_those_of_another_version(live, size):
    """Which other trainings leave out in silence."""
    file = live.path / "params.yml"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(Corrupt, match=r"params\.yml is not what was written; put it back"):
        opened(live.path)


def test_a_notebook_whose_widgets_changed_is_not_complete(live):
    page = live.path / "notebook.ipynb"
    notebook = json.loads(page.read_text())
    page.write_text(json.dumps(notebook | {"metadata": {"widgets": {"value": 1}}}))
    sign(page, "key")
    assert complete(page, "key")
    page.write_text(page.read_text().replace('"value": 1', '"value": 7'))
    assert not complete(page)


def test_a_run_whose_provenance_is_gone_is_not_one_of_todays_commit(live):
    (live.path / "provenance.json").unlink()
    with pytest.raises(Corrupt, match=r"provenance\.json is gone; put it back, or delete .* and run again"):
        open_run(live.params)
    assert not (live.path / "provenance.json").exists()


def test_files_that_are_older_than_checksums_are_read(live):
    facts, rows, records = live.provenance(), live.stats(), live.metrics()
    (live.path / "params.yml").write_text(live.params.yaml())
    (live.path / "provenance.json").write_text(json.dumps(facts))
    (live.path / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (live.path / "metrics.json").write_text(json.dumps(records))
    old = opened(live.path)
    assert (old.params, old.provenance(), old.stats(), old.metrics()) == (live.params, facts, rows, records)
    old.note(more=1)
    old.add_metrics([METRIC])
    assert (old.provenance(), old.metrics()) == (facts | {"more": 1}, [*records, METRIC])


def test_a_run_is_removed_and_nothing_else_is(live, recorded, tmp_path):
    variant = next(live.path.glob("variants/*"))
    for other in (
        recorded.path,
        live.path.parent,
        live.path.parents[1],
        live.path / "samples",
        tmp_path,
        tmp_path / "x",
    ):
        with pytest.raises(ParamsError, match="is not the folder of a run"):
            removed(other)
    with lock(live.path), pytest.raises(Locked):
        removed(live.path)
    removed(variant)
    assert not variant.exists()
    removed(live.path)
    assert list(live.path.parent.iterdir()) == []
    assert recorded.metrics()


def test_a_record_gives_back_the_first_images_pixel_for_pixel(recorded, live):
    kept, whole = draw(recorded, 1.0, 130), draw(live, 1.0, 130)
    assert (len(kept.images), len(whole.images)) == (100, 130)
    assert torch.equal(kept.images, whole.images[:100])
    assert torch.equal(kept.labels, whole.labels[:100])
    assert kept.facts == whole.facts
    assert torch.equal(trajectory(recorded, 5.0).images, trajectory(live, 5.0).images)


def test_a_recorded_run_is_as_good_as_trained(recorded):
    train(recorded)
    assert recorded.stats()


NOT_HELD = {
    "the training": train,
    "the model": lambda run: load_model(run, "raw"),
    "another guidance": lambda run: draw(run, 2.0, 130),
    "another number": lambda run: draw(run, 1.0, 120),
    "another seed": lambda run: draw(
        dataclasses.replace(run, params=run.params.replace(sample={"seed": 1})), 1.0, 130
    ),
    "a picture of the data": lambda run: image_set(run, "train-split", {"images": "one"}, None),
    "a prompt": lambda run: draw_now(run, ["seven"], [1.0], [0]),
    "a measurement": lambda run: measure(run, draw(run, 1.0, 130)),
    "the floor": measure_real,
    "a variant": lambda run: run.variant("other", train={"lr": 0.5}),
    "a variant with another value": lambda run: run.variant("caption-dropout", train={"caption_dropout": 0.2}),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_HELD)
def test_what_a_record_does_not_hold_is_refused_and_not_made(recorded, what):
    if what == "the training":
        (recorded.path / "stats.jsonl").unlink()
    before = files(recorded.path)
    with pytest.raises(NotRecorded):
        NOT_HELD[what](recorded)
    assert files(recorded.path) == before


def test_the_refusal_says_what_is_missing_and_what_to_do(recorded):
    with pytest.raises(
        NotRecorded, match=r"w2-ddpm .*'guidance': \{'w': 2\.0\}.*guidebook run mnist --profile smoke.*guidebook record"
    ):
        draw(recorded, 2.0, 130)


@pytest.mark.parametrize("place", ["in the book", "elsewhere"])
def test_the_environment_makes_a_record_the_run(recorded, tiny, tmp_path, monkeypatch, place):
    path = recorded.path if place == "in the book" else shutil.copytree(recorded.path, tmp_path / "elsewhere")
    monkeypatch.setenv("GUIDEBOOK_RECORD", str(path))
    for run in (open_run(tiny), find("mnist", "smoke"), find("mnist", "demo")):
        assert (run.path, run.recorded) == (Path(path), True)


def test_a_record_of_other_parameters_is_refused_and_they_are_named(recorded, tiny, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RECORD", str(recorded.path))
    with pytest.raises(NotRecorded, match=r"other parameters \(train\.lr\): record it again"):
        open_run(tiny.replace(train={"lr": 0.5}))


def test_a_record_that_is_not_there_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_RECORD", str(tmp_path / "none"))
    with pytest.raises(NotRecorded, match="holds no recorded run"):
        open_run(tiny)


# Finding runs


def test_without_a_run_the_command_that_makes_one_is_named(runs):
    with pytest.raises(ParamsError, match="guidebook run mnist --profile smoke"):
        find("mnist", "smoke")


def test_a_profile_that_there_is_not_is_not_advised(runs):
    with pytest.raises(ParamsError, match=r"profile 'smkoe' is not known \(nearest: smoke\)"):
        find("mnist", "smkoe")


def test_the_newest_finished_run_is_found(runs, tiny):
    a, b, unfinished = (open_run(tiny.replace(train={"lr": lr})) for lr in (1e-3, 2e-3, 3e-3))
    for run, seconds in ((a, 200), (b, 100)):
        executed(run.path)
        age(run.path / "notebook.ipynb", seconds)
    assert find("mnist", "smoke").path == b.path
    age(b.path / "notebook.ipynb", 300)
    assert find("mnist", "smoke").path == a.path
    assert not unfinished.finished


SEED, LESS = {"train": {"seed": 1}}, {"train": {"epochs": 1}}


@pytest.mark.parametrize(
    ("first", "then", "newest"),
    [
        ({}, LESS, False),
        ({}, SEED, False),
        (SEED, {}, True),
        ({}, {"train": {"epochs": 4}}, False),
        ({"train": {"lr": 1e-5}}, SEED, False),  # another seed than the profile's
        ({"train": {"epochs": 4}}, LESS, False),
        ({"train": {"lr": 1e-5}}, {"train": {"lr": 1e-4}}, True),
    ],
)
def test_of_two_runs_of_a_profile_the_one_that_keeps_to_it_is_found_and_shown(runs, first, then, newest):
    profile = load("mnist", "smoke")
    two = [open_run(profile.replace(**changes)) for changes in (first, then)]
    for run, seconds in zip(two, (200, 100), strict=True):
        run.variant("x", **DROPOUT)
        executed(run.path)
        for name in ("notebook.ipynb", "params.yml"):
            age(run.path / name, seconds)
    path = two[newest].path
    assert find("mnist", "smoke").path == path
    assert {run.owner for run in foremost(every_run())} == {path}
    assert {run.name for run in foremost(every_run())} == {"mnist/smoke", "mnist/smoke · x"}
    (path / "notebook.ipynb").unlink()
    assert find("mnist", "smoke").path != path


def test_a_live_run_is_found_before_its_record(recorded, live):
    assert find("mnist", "smoke").path == live.path
    shutil.rmtree(live.path)
    assert find("mnist", "smoke").path == recorded.path


def test_a_folder_without_params_is_no_run(live):
    (live.path.parent / "smoke-00000000").mkdir()
    assert find("mnist", "smoke").path == live.path
    assert all(run.path.name != "smoke-00000000" for run in foremost(every_run()))


def test_all_runs_are_the_live_ones_and_the_records_that_none_replaces(recorded, live):
    shutil.copytree(recorded.path, recorded.path.with_name("demo"))
    demo = recorded.params.replace(profile="demo")
    for file in recorded.path.with_name("demo").rglob("params.yml"):
        file.write_text(demo.yaml())
        file.with_name("manifest.json").unlink()  # a record from before there were checksums
    names = {run.name: run.recorded for run in foremost(every_run())}
    assert names == {
        "mnist/demo": True,
        "mnist/demo · caption-dropout": True,
        "mnist/smoke": False,
        "mnist/smoke · caption-dropout": False,
    }


def test_a_run_that_is_not_finished_does_not_hide_a_record(recorded, live):
    (live.path / "notebook.ipynb").unlink()
    assert {run.recorded for run in foremost(every_run())} == {True}
    assert find("mnist", "smoke").path == recorded.path


def test_a_run_with_params_of_another_version_is_left_out(live, caplog):
    older = live.path.with_name("smoke-00000000")
    shutil.copytree(live.path, older)
    (older / "params.yml").write_text("experiment: mnist\n")
    assert [run.path for run in foremost(every_run()) if run.path == older] == []
    assert "left out" in caplog.text


def test_a_runs_state_says_how_far_it_is(live, recorded):
    assert [state(run) for run in (live, recorded)] == ["complete", "recorded"]
    (live.path / "notebook.ipynb").unlink()
    assert state(live) == "trained"
    shutil.rmtree(live.path / "model")
    assert state(live) == "stopped"
    with lock(live.path):
        assert state(live) == "training"


def test_the_overview_has_a_row_for_every_run_with_what_was_seen_and_found(live):
    rows = {row["run"]: row for row in overview(foremost(every_run()))}
    assert list(rows) == ["mnist/smoke", "mnist/smoke · caption-dropout"]
    row = rows["mnist/smoke"]
    assert (row["images seen"], row["of"], row["state"]) == (128, 128, "complete")
    assert row["best adherence"] == "50.0 % at w = 1, n = 130"
    json.dumps(list(rows.values()))


def test_beside_the_best_adherence_stands_what_the_judge_reads_of_real_images(live):
    live.add_metrics([METRIC | {"guidance": None, "value": 0.9}])
    assert overview([live])[0]["best adherence"] == "50.0 % at w = 1, n = 130, real images 90.0 %"


def test_a_training_that_was_stopped_has_seen_the_images_that_its_message_names(runs, tiny, monkeypatch):
    run, step = open_run(tiny), Trainer.step

    def stopped(trainer):
        step(trainer)
        current().signalled = trainer.nimg == 48  # lines of statistics are written after 64 and 128

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopped)
        with pytest.raises(Preempted, match="training after 48 images"):
            train(run)
    assert [(row["images seen"], row["state"]) for row in overview([run])] == [(48, "stopped")]
    shutil.rmtree(run.path / "checkpoints")
    assert overview([run])[0]["images seen"] == 0
    train(run)
    assert overview([run])[0]["images seen"] == 128


def refused(params, *made):
    """The folder of a run whose work is refused when these files of it were made."""
    with begun(params) as run:
        for file in (run.path / name for name in made):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        raise DataError(run.path)


@pytest.mark.parametrize("made", ["", "stats.jsonl", "samples/w1/images.safetensors", "notebook.partial.ipynb"])
def test_where_work_is_refused_before_anything_was_made_no_folder_stays(runs, tiny, made):
    (folder(tiny) / "samples").mkdir(parents=True)
    with pytest.raises(DataError):
        refused(tiny, *filter(None, [made]))
    assert [file.name for file in runs.iterdir()] == ["mnist"] * bool(made)
    assert (folder(tiny) / made).exists() == bool(made)


def test_a_folder_that_another_process_works_on_stays_where_work_is_refused(runs, tiny):
    with lock(open_run(tiny).path), pytest.raises(DataError):
        refused(tiny)
    assert opened(folder(tiny)).params == tiny


def test_a_run_that_never_trained_has_a_row(runs, tiny):
    open_run(tiny)
    [row] = overview(foremost(every_run()))
    assert (row["images seen"], row["of"], row["state"], row["best adherence"]) == (0, 128, "stopped", None)


# Files


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    module.write(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        module.write(tmp_path / "a.json", "new \ud800")
    assert files(tmp_path) == {"a.json": b"old"}


def test_an_experiment_that_was_not_run_says_what_to_run(runs):
    with pytest.raises(ParamsError, match="no run of mnist/smoke yet: guidebook run mnist --profile smoke"):
        find("mnist", "smoke")

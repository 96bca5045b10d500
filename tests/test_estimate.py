"""What a run takes is said before it starts: measured where a run of the kind was, else named an estimate or not known."""

import re

import pytest

from guidebook.book.notebook import run_experiment
from guidebook.config.budget import images, rows
from guidebook.config.params import ParamsError, load
from guidebook.config.paths import PARAMS
from guidebook.models import counting
from guidebook.models.counting import cost
from guidebook.runs.run import open_run
from guidebook.training import estimate
from guidebook.training.estimate import check_memory, download, facts, hours, memory
from guidebook.training.loop import train


def test_hours_are_measured_by_a_run_of_the_same_kind_alone(runs, tiny):
    assert hours(tiny).startswith("not known: no run of this network and batch has trained on ")
    run = open_run(tiny)
    train(run)
    rate = run.stats()[-1]["images_per_s"]
    longer = tiny.replace(train={"epochs": 1e4, "lr": 1e-5})
    said = hours(longer)
    assert float(said.partition(",")[0]) == pytest.approx(64e4 / rate / 3600, rel=0.06)  # of two digits
    assert f"{rate:,.0f} images/s as in mnist/smoke, measured on {run.provenance()['device']}" in said
    for other in ({"train": {"batch": 32}}, {"data": {"resolution": 16}}, {"model": {"channels": [32, 64]}}):
        assert hours(tiny.replace(**other)).startswith("not known")


def test_a_run_that_is_corrupt_says_nothing_of_another(runs, tiny):
    run = open_run(tiny)
    train(run)
    (run.path / "provenance.json").write_text("{")
    assert hours(tiny).startswith("not known")


def test_the_disk_holds_the_snapshots_of_two_averages_as_they_are_written(runs, tiny):
    two = tiny.replace(train={"ema": ["power:0.05", "power:0.1"], "snapshots": 4}, sample={"weights": "raw"})
    more = two.replace(train={"snapshots": 8})
    run = open_run(two)
    train(run)
    written = sum(file.stat().st_size for file in (run.path / "snapshots").rglob("*.safetensors"))
    assert memory(more)[1] - memory(two)[1] == pytest.approx(written, rel=0.05)  # as many again; names take the rest


@pytest.fixture
def unknown(tmp_path, monkeypatch):
    """The repository keeps no costs."""
    monkeypatch.setattr(counting, "FILE", tmp_path / "costs.json")


def test_a_network_is_counted_once(runs, tiny, unknown, monkeypatch):
    first = cost(tiny)
    assert first.total > 0
    monkeypatch.setattr("guidebook.models.published.cost", lambda _: pytest.fail("counted again"))
    assert cost(tiny) == first


def test_memory_grows_with_the_batch_on_a_device_and_with_averages(runs, tiny):
    plain = tiny.replace(train={"ema": [], "precision": "fp32"}, sample={"weights": "raw"})
    (whole, _), (half, _), (shared, _), (averaged, _) = (
        memory(plain.replace(train=t)) for t in ({}, {"micro_batch": 8}, {"processes": 2}, {"ema": [0.9, 0.99]})
    )
    network = cost(plain)
    assert whole - half == 8 * network.saved - 4 * network.parameters  # a gradient is added to from part to part
    assert half - shared == 4 * network.parameters
    assert averaged - whole == 2 * 4 * network.parameters


def test_a_step_of_the_published_mnist_takes_what_was_once_measured(runs):
    """10.9 GB of 512 images and 2.7 of 64, a process of its own included, on a CPU (see the log): 18.3 MB an image."""
    params = load("mnist", "paper")
    (most, _), (part, _) = (memory(params.replace(train={"micro_batch": n})) for n in (512, 64))
    assert (most - part) / (512 - 64) == pytest.approx(18.3e6, rel=0.15)


@pytest.mark.parametrize(("experiment", "gb"), [("celeba", 36 + 3), ("imagenet100", 26 + 2)])
def test_the_disk_holds_decoded_images_and_latents(runs, experiment, gb):
    """As the README has them, beside three checkpoints with Adam's moments, the model, and few samples."""
    few = {
        "train": {"keep_checkpoints": 2, "ema": []},
        "evaluate": {"samples": 300},
        "sample": {"guidance": [1.0], "weights": "raw"},
    }
    params = load(experiment, "paper").replace(**few)
    rest = memory(params)[1] - (3 * 3 + 1) * 4 * cost(params).parameters
    assert rest / estimate.GB == pytest.approx(gb, rel=0.03)


def test_what_was_counted_before_is_verified(runs, tiny, unknown, caplog):
    known = cost(tiny)
    (file,) = runs.glob("atlas/cost-*/cost.json")
    file.write_text(file.read_text().replace(f"{known.parameters}", f"{known.parameters}1"))
    assert cost(tiny) == known
    assert "cost.json is not what was written; it is made anew" in caplog.text


def test_what_is_here_is_not_downloaded(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("guidebook.config.hub.cached", lambda *_: tmp_path)
    assert download(load("mnist", "demo")) == "nothing"
    assert download(load("wikiart", "paper")).startswith("wikiart 32 GB, ")
    assert "mnist of a size not known here" in download(load("mnist", "paper"))
    assert "clip-vit-base-patch32 of a size not known here" in download(load("mnist", "paper"))


def test_all_of_it_is_said(runs, tiny):
    assert list(facts(tiny)) == [
        "parameters", "GMAC_per_image", "GFLOP_per_image", "updates", "images_seen", "training_hours",
        "memory_GB_of_a_step_(estimate)", "disk_GB_(estimate)", "download",
    ]  # fmt: skip


def test_networks_that_are_compared_cost_what_a_run_of_theirs_does(runs):
    params = load("backbones", "smoke")
    found, one = facts(params), params.replace(model=params.network("dit-l"))
    assert [k for k in found if k.startswith("network_")] == [f"network_{of.name}" for of in params.evaluate.networks]
    assert found["network_dit-l"].startswith(f"{cost(one).parameters:,} parameters, {cost(one).gmac:.4g} GMAC")
    assert f"{memory(one)[0] / estimate.GB:.2f} GB" in found["network_dit-l"]
    assert cost(one).parameters > cost(params.replace(model=params.network("dit-s"))).parameters


@pytest.mark.parametrize(("place", "sides"), [("backbones/paper", {"dit": 4, "mmdit": 3}), ("flows/medium", {"": 6})])
def test_the_header_of_a_profile_that_has_not_run_says_what_it_costs(runs, place, sides):
    """Trainings, days of a GPU of 200 TFLOP/s by three times the forward, a third more where blocks are computed again, and the disk of weights.

    `sides`: how often the notebook trains a network that it trains more than once, the run's own by no name.
    """
    params = load(*place.split("/"))
    others = {of.name: params.replace(model=params.network(of.name)) for of in params.evaluate.networks}
    days, disk, n, k = 0.0, 0.0, 0, params.evaluate.trainings
    decoded, latents = (
        (rows(params.data) + params.data.entry.test) * 3 * 256**2,
        rows(params.data) * 2 * 2 * 4 * 32**2 * 2,
    )
    shared = decoded + latents  # by all trainings
    for name, one in ({"": params} | others).items():
        times = k * sides.get(name, 1)
        passes = 4 if one.train.gradient_checkpointing else 3
        days += times * passes * 2e9 * cost(one).gmac * images(one) / 200e12 / 86400
        disk, n = disk + times * (memory(one)[1] - shared), n + times
    head = (PARAMS / f"{place}.yml").read_text().partition("experiment:")[0]
    assert f"some {days:.0f} GPU-days at 200 TFLOP/s" in head
    said = float(re.search(r"([\d.]+) TB of disk", head)[1])
    assert said == pytest.approx(disk / 1e12, rel=0.1)
    assert f"{n} trainings" in head if others else f"{cost(params).parameters:,}" in head


def test_a_batch_that_no_memory_holds_is_refused_before_anything_starts(runs):
    plain = load("mnist", "smoke")
    check_memory(plain)
    for t in ({"batch": 10**12}, {"batch": 10**12, "micro_batch": 8}, {"batch": 10**9, "micro_batch": 10**7}):
        with pytest.raises(ParamsError, match=rf"train.batch = {t['batch']:,}.* GB, this device has \d+: "):
            run_experiment(plain.replace(train=t))
    assert not [*runs.glob("mnist/*/*.ipynb")]
    check_memory(plain.replace(train={"batch": 4096, "micro_batch": 8}))

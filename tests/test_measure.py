"""Metric records: complete, found again, and with a floor that can be compared."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from guidebook.config.datasets import CIFAR100, SUPERCLASSES, superclasses
from guidebook.config.params import digest
from guidebook.data.images import load
from guidebook.metrics import measure as M
from guidebook.metrics import subject
from guidebook.metrics.groups import GROUPS
from guidebook.metrics.judge import Judge, judge
from guidebook.metrics.networks import Clip, Inception, Lpips
from guidebook.metrics.records import reference
from guidebook.runs.run import NotRecorded, open_run
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw

FIELDS = {"metric", "value", "low", "high", "interval", "n", "guidance", "draw"}


@pytest.fixture
def run(runs, tiny):
    return open_run(tiny.replace(data={"limit": None}, evaluate={"samples": 100}))


def as_samples(run, n, order=None, **spec):
    """The first n real test images, as if they had been drawn."""
    order = torch.arange(n) if order is None else order
    test = load(run.params.data).test
    facts = {"draw": Draw.of(run.params, 1.0, n, **spec).json, "seconds_per_image": 0.1, "n": n}
    facts["labels"] = test.labels[order].tolist()
    return ImageSet("w1", run.path / "samples" / "w1-00000000", test.images[order], facts)


def test_every_record_has_its_interval_its_number_and_its_method(run):
    for record in M.measure_real(run):
        assert set(record) >= FIELDS
        assert record["low"] <= record["value"] <= record["high"]
        assert record["low"] < record["high"]


def test_the_judge_reads_the_whole_test_split(run):
    record = M.judge_record(run)
    assert record["n"] == 360
    assert record["value"] > 0.97


def test_a_measurement_is_made_once(run, monkeypatch):
    first = M.measure_real(run)
    monkeypatch.setattr("guidebook.data.images.load", lambda *_: pytest.fail("measured again"))
    assert M.measure_real(run) == first
    assert run.metrics() == first


def test_records_hold_no_times_and_those_that_were_keyed_by_one_are_found(run, monkeypatch):
    """A record is the same whenever it is made; until then one was keyed by the seconds of an image, too."""
    images = as_samples(run, 100)
    first = M.measure(run, images)
    assert not [key for r in first for key in r if "seconds" in key]
    images.facts["seconds_per_image"] = 0.2
    monkeypatch.setattr("guidebook.metrics.measure.owned", lambda _: pytest.fail("measured again"))
    assert M.measure(run, images) == first
    old = digest(
        ["w1", {"guidance": 1.0, "draw": images.draw.json, "seconds_per_image": 0.2, "n": 100}, "judge", [], 100]
    )
    (run.path / "metrics.json").write_text(json.dumps([r | {"key": old} for r in first]))
    assert [r["value"] for r in M.measure(run, images)] == [r["value"] for r in first]


ALL = tuple(GROUPS)


@pytest.fixture
def stand_ins(monkeypatch):
    """Networks whose weights are at hand: cheap ones in their place. What each has read, image by image."""
    turn, seen = torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), {}

    def stand_in(network, name, forward, gives):
        def read(self, images):
            seen[name] = seen.get(name, 0) + len(images)
            return forward(images.float().flatten(1) / 255 @ turn)

        monkeypatch.setattr(network, "name", name)
        monkeypatch.setattr(network, "gives", tuple((key, (width,), "float32") for key, width in gives.items()))
        monkeypatch.setattr(network, "why_absent", lambda _: None)
        monkeypatch.setattr("guidebook.metrics.measure.why_absent", lambda _: None)
        monkeypatch.setattr(network, "read", read)

    def unit(x):
        return torch.nn.functional.normalize(x, dim=1)

    stand_in(
        Inception,
        "inception-test",
        lambda x: {"features": x[:, :12], "logits": x[:, 12:]},
        {"features": 12, "logits": 12},
    )
    stand_in(Clip, "clip-test", lambda x: {"features": unit(x)}, {"features": 24})
    stand_in(Lpips, "lpips-test", lambda x: {"features": x}, {"features": 24})
    monkeypatch.setattr(
        Clip, "captions", lambda _, c: unit(torch.stack([turn[int(line.split()[-1])] for line in c])), raising=False
    )
    own = Judge.read

    def counted(self, images):
        seen["judge"] = seen.get("judge", 0) + len(images)
        return own(self, images)

    monkeypatch.setattr(Judge, "read", counted)
    reference.cache_clear()
    yield seen
    reference.cache_clear()


def test_every_group_gives_its_metrics_with_all_that_was_promised(run, stand_ins):
    none = {"adherence_superclass"}  # of digits
    few = none | {"fd_judge_inf", "fd_random_inf"}  # for which 120 images do not suffice
    for records, absent in ((M.measure(run, as_samples(run, 120), ALL), few), (M.measure_real(run, ALL), none)):
        assert {r["metric"] for r in records} == {m for g in GROUPS.values() for m in g.metrics} - absent
        for record in records:
            assert set(record) >= FIELDS | {"extractor", "reference", "set", "key", "group"}
            assert record["low"] <= record["value"] <= record["high"]
            assert record["metric"] in GROUPS[record["group"]].metrics
            assert record["n"] > 0
            # whatever is measured in the judge's features is named for it
            space = record["metric"] in ("fd_judge", "fd_judge_inf", "kd_judge") or record["metric"].endswith("_judge")
            assert space == (
                record["extractor"].startswith("judge")
                and record["metric"] not in ("adherence", "confidence", "diversity")
            )


def test_a_distance_has_what_it_tends_to_beside_it_where_images_suffice(run):
    found = {r["metric"]: r for r in M.measure(run, as_samples(run, 260), ["blind"])}
    assert found["fd_random_inf"]["value"] < found["fd_random"]["value"]
    assert found["fd_random_inf"]["n"] == 260


def test_each_set_goes_through_each_network_once(run, stand_ins):
    samples, _ = as_samples(run, 120), judge(run.params.data)
    stand_ins.clear()
    M.measure(run, samples, ALL)
    M.measure_real(run, ALL)
    for space in ("judge", "inception"):
        M.fd_curve_records(run, samples, space)
        M.fd_curve_records(run, None, space)
        M.frechet_against(run, samples, 100, 100, space=space)
    assert stand_ins["judge"] == stand_ins["inception-test"] == 120 + 360 + 1437  # samples, test split, train split
    assert stand_ins["clip-test"] == 120 + 360


def test_what_a_perfect_model_scores_is_the_floor(run, stand_ins, monkeypatch):
    """The test split's shuffled images as samples get the records of the test split, to the last digit."""
    # Samples are drawn in every class as often, which narrows intervals; real images are drawn as they come.
    monkeypatch.setattr(subject.Subject, "classes", lambda self, n: None)
    n = run.params.evaluate.samples
    records = M.measure(
        run, as_samples(run, n, subject.of_real(run, "test").order[:n]), ("judge", "manifold", "inception")
    )
    # of all images there are
    whole = ("adherence", "confidence", "diversity", "grain", "inception_score", "fid_inf", "fd_judge_inf")
    floor = {r["metric"]: r for r in M.measure_real(run, ("judge", "manifold", "inception"))}
    assert len(records) == 18
    for record in records:
        if record["metric"] not in whole:
            for field in ("value", "low", "high", "n", "reference"):
                assert record[field] == floor[record["metric"]][field]


def test_sets_of_one_name_that_were_drawn_otherwise_are_measured_apart(run):
    one, other = (M.measure(run, as_samples(run, 120, **spec))[0] for spec in ({}, {"at": 500}))
    assert one["key"] != other["key"]
    assert other["draw"]["at"] == 500
    assert "at" not in one["draw"]


def test_without_weights_there_is_no_record_but_a_reason(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    images = as_samples(run, 120)
    records = M.measure(run, images, ALL)
    assert {r["group"] for r in records} == {"judge", "blind", "manifold", "copying", "colour", "published"}
    assert M.fd_curve_records(run, images, "inception") == M.frechet_against(run, images, 30, 30) == []
    reasons = M.absent(ALL)
    assert len(reasons) == 3
    assert reasons[0].startswith("fid, kid, precision")
    assert "pt_inception-2015-12-05-6726825d.pth is not available: put it into" in reasons[0]
    assert M.absent(("judge", "manifold")) == []


def test_weights_that_come_later_are_used_then(run, stand_ins, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("guidebook.metrics.measure.why_absent", lambda _: "not yet")
        assert M.measure_real(run, ("inception",)) == []
    assert len(M.measure_real(run, ("inception",))) == 8


def test_a_record_gives_what_it_holds_and_makes_nothing(run, stand_ins):
    images = as_samples(run, 120)
    made = M.measure(run, images, ("judge", "manifold")) + M.fd_curve_records(run, images)
    recorded = replace(run, recorded=True)
    stand_ins.clear()
    assert M.measure(recorded, images, ALL) + M.fd_curve_records(recorded, images) == made
    assert M.fd_curve_records(recorded, images, "inception") == M.frechet_against(recorded, images, 30, 30) == []
    assert M.measure_real(recorded, ("manifold",)) == []
    assert stand_ins == {}
    with pytest.raises(NotRecorded, match="test split"):
        M.measure_real(recorded)


def test_a_group_that_is_none_is_named_with_those_that_are(run):
    with pytest.raises(ValueError, match="called fvd; there are judge, blind, manifold"):
        M.measure_real(run, ("judge", "fvd"))


def test_the_curve_falls_to_what_infinitely_many_images_have(run, stand_ins):
    records = M.fd_curve_records(run, None, "judge", counts=(50, 100, 200, 1000))
    assert [(r["metric"], r["n"]) for r in records] == [
        ("fd_judge", 50), ("fd_judge", 100), ("fd_judge", 200), ("fd_judge", 360), ("fd_judge_inf", 360),
    ]  # fmt: skip
    values = [r["value"] for r in records]
    assert values == sorted(values, reverse=True)
    assert {r["group"] for r in records} == {"curve-judge"}
    assert M.fd_curve_records(run, None, "judge", counts=(50, 100, 200, 1000)) == records
    few = M.fd_curve_records(run, as_samples(run, 100), "judge")  # fewer than the extrapolation needs
    assert [(r["metric"], r["n"]) for r in few] == [("fd_judge", 50), ("fd_judge", 100)]


def test_another_protocol_has_its_own_number_of_images_and_its_own_floor(run, stand_ins):
    (record,) = M.frechet_against(run, as_samples(run, 120), 80, 90)
    assert (record["metric"], record["n"], record["reference"]) == ("fid", 80, "test split, 90 images")
    (floor,) = M.frechet_against(run, None, 80, 90)
    assert floor["set"] == "train split"
    assert floor["n"] == 80
    assert floor["guidance"] is None
    (judged,) = M.frechet_against(run, None, 80, 90, space="judge")
    assert (judged["metric"], judged["set"]) == ("fd_judge", "train split")
    with pytest.raises(
        ValueError, match=r"500 images against 90 were asked for, but w1 has 120, test split has|has 120"
    ):
        M.frechet_against(run, as_samples(run, 120), 500, 90)


def test_lpips_compares_images_of_one_caption(run, stand_ins):
    images = as_samples(run, 120)
    (record,) = M.measure(run, images, ("lpips",))
    x = Lpips().read(images.images)["features"].double()
    square = torch.cdist(x, x).square().numpy()
    means = []
    for k in range(10):
        own = square[np.ix_(images.labels == k, images.labels == k)]
        means.append(own.sum() / (len(own) * (len(own) - 1)))
    assert record["value"] == pytest.approx(np.mean(means), abs=2e-6)
    assert record["n"] == 120
    (one,) = M.measure(run, as_samples(run, 120, prompt="A handwritten digit 3"), ("lpips",))
    assert one["value"] == pytest.approx(square.sum() / (120 * 119), abs=2e-6)


def test_samples_of_a_prompt_are_read_as_the_prompt_asks_and_as_nothing_where_no_class_has_it(run):
    fours = (load(run.params.data).test.labels == 4).nonzero().flatten()[:30]
    asked = {}
    for prompt in ("A handwritten digit 4", "A handwritten digit 5", "A handwritten", ""):
        records = M.measure(run, as_samples(run, len(fours), fours, prompt=prompt), ("judge", "published"))
        asked[prompt] = {r["metric"]: r["value"] for r in records}
    four, five, *others = asked.values()
    assert four["adherence"] > 0.9 > 0.1 > five["adherence"]
    assert {"adherence", "accuracy_untrained"} <= set(five)
    for other in others:
        assert not {"adherence", "accuracy_untrained"} & set(other)
        assert other["diversity"] == four["diversity"]  # between all of them, as they have one caption


def test_clip_scores_an_image_with_its_own_caption(run, stand_ins):
    images = as_samples(run, 120)
    (record,) = M.measure(run, images, ("clip",))
    read = Clip().read(images.images)["features"]
    own = Clip().captions([f"A handwritten digit {k}" for k in images.labels.tolist()])
    assert record["value"] == pytest.approx(float(100 * (read * own).sum(1).clamp(min=0).mean()), abs=1e-4)
    asked = M.measure(run, as_samples(run, 120, prompt="A handwritten digit 3"), ("clip",))
    assert asked[0]["value"] != record["value"]
    assert M.measure(run, as_samples(run, 120, prompt=""), ("clip", "lpips")) == []


# Superclasses, and six images


def test_every_class_of_cifar_100_is_in_one_of_20_superclasses_of_five():
    numbers = superclasses("cifar100", CIFAR100)
    assert sorted(numbers) == sorted(5 * [*range(20)])
    assert [CIFAR100[i] for i, n in enumerate(numbers) if n == numbers[CIFAR100.index("wolf")]] == [
        "bear", "leopard", "lion", "tiger", "wolf",
    ]  # fmt: skip
    assert superclasses("cifar100", ("wolf", "bear", "tank")) == [8, 8, 19]
    assert superclasses("digits", "0123456789") == []


def test_what_is_read_as_a_class_of_the_same_superclass_has_the_superclass(run, monkeypatch):
    """Digits whose superclasses are the even and the odd ones."""
    monkeypatch.setitem(SUPERCLASSES, "digits", {"even": tuple("02468"), "odd": tuple("13579")})
    images = as_samples(run, 100)
    images.facts["labels"] = [
        (label + 2) % 10 for label in images.facts["labels"]
    ]  # each asks for the next of its kind
    found = {r["metric"]: r["value"] for r in M.measure(run, images)}
    assert found["adherence"] < 0.05
    assert found["adherence_superclass"] > 0.95


def test_six_of_one_model_fall_by_chance_and_six_that_are_better_more_often(run):
    good = as_samples(run, 100)
    bad = ImageSet("w1-bad", run.path / "samples" / "w1-11111111", (good.images // 2 + 64).numpy(), good.facts)
    ratio = 0.817
    (near, chance), (_, better), (far, _) = (
        M.six_records(run, *of, ratio) for of in ((good, good), (good, bad), (bad, bad))
    )
    assert 0.02 < chance["value"] < 0.4
    assert better["value"] > 0.9
    assert near["low"] < near["value"] < near["high"] < far["value"]
    assert M.six_records(run, good, good, 1 / ratio)[1]["value"] == pytest.approx(1 - chance["value"], abs=0.05)

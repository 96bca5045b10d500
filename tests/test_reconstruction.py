"""Power-function averages, and averages of any length after the training: closed forms, and a real training by brute force."""

import math
import shutil

import numpy as np
import pytest
import torch

from guidebook.config.params import ParamsError, load
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import open_run
from guidebook.training import checkpoint, train
from guidebook.training.ema import EMA, decay_at
from guidebook.training.model import load_model
from guidebook.training.power import combination, density, exponent, product
from guidebook.training.reconstruction import reconstructed
from guidebook.training.step import Trainer

PAIRS = {0.05: 16.972, 0.1: 6.937, 0.13: 4.604, 0.15: 3.558, 0.25: 0.720}  # Karras et al. 2024: σ_rel and γ


def weights_of(length: float, n: int) -> np.ndarray:
    """What each of n updates counts in a power-function average: ((j)^(γ + 1) − (j − 1)^(γ + 1)) / n^(γ + 1), j = 1 … n."""
    return np.diff((np.arange(n + 1) / n) ** (exponent(length) + 1))


@pytest.mark.parametrize("length", PAIRS)
def test_the_exponents_are_the_published_ones_and_give_the_length_back(length):
    gamma = exponent(length)
    assert gamma == pytest.approx(PAIRS[length], abs=5e-4)
    assert math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize("length", [0.05, 0.25])
def test_an_impulse_counts_by_the_power_function_and_spreads_by_the_length(length):
    n = 400
    average = EMA([("w", torch.zeros(n, dtype=torch.float64))], f"power:{length}")
    for each in torch.eye(n, dtype=torch.float64):  # an impulse at each step, in a weight of its own
        average.update(each)
    seen = average.weights["w"].numpy()
    np.testing.assert_allclose(seen, weights_of(length, n), rtol=1e-9, atol=1e-15)
    times = (np.arange(n) + 0.5) / n
    mean = np.average(times, weights=seen)
    assert np.sqrt(np.average((times - mean) ** 2, weights=seen)) == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("length", PAIRS)
def test_a_profile_counts_the_whole_training_once_and_spreads_by_its_length(length):
    tau = (np.arange(10_000) + 0.5) / 10_000
    seen = density(length, tau)
    assert seen.mean() == pytest.approx(1, rel=1e-4)
    mean = np.average(tau, weights=seen)
    assert np.sqrt(np.average((tau - mean) ** 2, weights=seen)) == pytest.approx(length, rel=1e-4)


def test_the_first_update_takes_the_weights_and_the_warm_up_of_decays_is_the_power_function_of_exponent_eight():
    assert decay_at(0, "power:0.1", True) == 0
    for k in (2_000, 100_000):  # 1 − d_k = (γ + 1) / k at first order
        assert (1 - decay_at(k, 0.9999999, True)) * k == pytest.approx(9, rel=0.01)
    assert math.sqrt(9 / 11) / 10 == pytest.approx(0.0905, abs=5e-5)


def test_inner_products_are_those_of_the_integrals():
    tau = (np.arange(200_000) + 0.5) / 200_000
    for (ta, ga), (tb, gb) in (((1.0, 7.0), (0.5, 3.0)), ((0.4, 1.0), (0.9, 16.0)), ((0.7, 2.0), (0.7, 2.0))):
        a, b = ((g + 1) * tau**g / t ** (g + 1) * (tau <= t) for t, g in ((ta, ga), (tb, gb)))
        assert product(*(np.array(x) for x in (ta, ga, tb, gb))) == pytest.approx((a * b).mean(), rel=1e-4)


def test_a_snapshots_own_profile_is_that_snapshot_and_shares_sum_to_one():
    profiles = [(t, g) for t in np.arange(1, 33) / 32 for g in (exponent(0.05), exponent(0.1))]
    for i in (63, 62, 20):
        np.testing.assert_allclose(combination(profiles, profiles[i]), np.eye(64)[i], atol=1e-6)
    for length in (0.04, 0.13, 0.25):
        assert combination(profiles, (1.0, exponent(length))).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("length", [0.03, 0.13, 0.2])
def test_weights_on_a_line_and_on_a_square_root_are_averaged_within_a_thousandth(length):
    """θ(τ) = τ^a has the average (γ + 1) / (γ + 1 + a) t^a, whatever the length."""
    profiles = [(t, exponent(s)) for t in np.arange(1, 65) / 64 for s in (0.05, 0.1)]
    shares, gamma = combination(profiles, (1.0, exponent(length))), exponent(length)
    for a in (1, 0.5):
        found = sum(x * (g + 1) / (g + 1 + a) * t**a for x, (t, g) in zip(shares, profiles, strict=True))
        assert found == pytest.approx((gamma + 1) / (gamma + 1 + a), rel=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 96 updates with two power-function averages and 24 snapshots, and its raw weights after every update."""
    patch, every = pytest.MonkeyPatch(), []
    patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
    update = Trainer.step

    def step(self):
        update(self)
        every.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    patch.setattr(Trainer, "step", step)
    ema = ["power:0.05", "power:0.1"]
    params = load("mnist", "smoke").replace(
        data={"limit": 64},
        train={"batch": 16, "epochs": 24, "checkpoint_every": 6, "ema": ema, "snapshots": 24},
        sample={"weights": "power-0.13"},
    )
    run = open_run(params)
    train(run)
    yield run, every
    patch.undo()


def apart(a: dict, b: dict) -> float:
    """‖a − b‖ / ‖b‖ over all weights."""
    return math.sqrt(sum(((a[k] - b[k]) ** 2).sum() for k in b) / sum((b[k] ** 2).sum() for k in b))


@pytest.mark.parametrize("at", [None, 1280])
@pytest.mark.parametrize("length", [0.08, 0.13, 0.25])
def test_an_average_of_any_length_is_that_of_all_weights_of_the_training(trained, length, at):
    run, every = trained
    every = every[: at // 16] if at else every
    shares = weights_of(length, len(every))
    brute = {k: sum(x * w[k] for x, w in zip(shares.tolist(), every, strict=True)) for k in every[0]}
    found = load_model(run, f"power-{length}", at).state_dict()
    assert apart(found, brute) < 1e-3 < 5e-3 < apart(every[-1], brute)


def test_a_kept_length_is_loaded_as_it_is_and_half_precision_of_it_is_a_snapshot(trained):
    run, every = trained
    shares = weights_of(0.05, len(every))
    kept = load_model(run, "power-0.05").state_dict()
    brute = {k: sum(x * w[k] for x, w in zip(shares.tolist(), every, strict=True)) for k in every[0]}
    assert apart(kept, brute) < 1e-6
    last = checkpoint.complete(run.path / "snapshots")[-1]
    assert all(torch.equal(w, kept[k].half()) for k, w in checkpoint.load(last)[0]["power-0.05"].items())
    assert not (run.path / "reconstructed").exists() or not list((run.path / "reconstructed").glob("power-0.05-*"))


def test_it_is_made_once(trained):
    run, _ = trained
    folder = reconstructed(run, "power-0.17")
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    assert reconstructed(run, "power-0.17") == folder
    assert before == {f: f.stat().st_mtime_ns for f in folder.rglob("*")}


def test_too_few_snapshots_and_lengths_below_their_distance_are_refused(trained):
    run, _ = trained
    with pytest.raises(
        ParamsError, match=r"24 snapshots .* 64 apart: power-0.04 needs at least 4, not farther apart than 61;"
    ):
        reconstructed(run, "power-0.04")
    with pytest.raises(ParamsError, match=r"has 3 snapshots of its averages up to 192 images"):
        reconstructed(run, "power-0.2", 192)
    with pytest.raises(
        ParamsError, match=r"no snapshot of its averages after 1,200 images, but every 64 .* power-0.2 cannot"
    ):
        reconstructed(run, "power-0.2", 1200)


def test_the_end_of_a_training_is_not_an_earlier_moment(trained):
    """A training that has not ended, or lost its last snapshot, has no weights of its end; those of before stay."""
    run, _ = trained
    last = checkpoint.complete(run.path / "snapshots")[-1]
    gone = last.rename(run.path / "put-aside")
    try:
        with pytest.raises(ParamsError, match=r"no snapshot of its averages after 1,536 images"):
            reconstructed(run, "power-0.19")
        assert reconstructed(run, "power-0.19", 1472).is_dir()
    finally:
        gone.rename(last)


@pytest.mark.parametrize("damage", ["gone", "without a manifest", "a byte", "cut"])
def test_of_damaged_snapshots_no_other_weights_come(trained, damage):
    run, _ = trained
    whole = run.path / "snapshots" / "nimg-0000000640"
    kept = shutil.copytree(whole, run.path / "put-aside")
    file = whole / "power-0.1.safetensors"
    raw = file.read_bytes()
    if damage == "gone":
        shutil.rmtree(whole)
    elif damage == "without a manifest":
        (whole / "manifest.json").unlink()
    else:
        file.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    try:
        with pytest.raises(
            Corrupt, match=rf"nimg-0000000640.* is not .*; put it back, or delete {run.path} and run again"
        ):
            reconstructed(run, "power-0.21")
        assert reconstructed(run, "power-0.21", 576).is_dir()  # of before
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        kept.rename(whole)
    assert reconstructed(run, "power-0.21").is_dir()
    shutil.rmtree(run.path / "reconstructed")


BAD = {
    "longer than the flat average": ["power:0.3"],
    "no length": ["power:0.0"],
    "one length twice": ["power:0.1", "power:0.10"],
}


@pytest.mark.parametrize("ema", BAD.values(), ids=BAD)
def test_lengths_that_cannot_be_are_refused(ema):
    with pytest.raises(ParamsError, match=r"lengths after power: differ, and lie between 0 and 0.2887"):
        load("mnist", "smoke").replace(train={"ema": ema}, sample={"weights": "raw"})


def test_any_length_needs_two_averages():
    smoke = load("mnist", "smoke")
    with pytest.raises(ParamsError, match=r"'power-0.13' must be one of \['raw', 'power-0.1'\]"):
        smoke.replace(train={"ema": ["power:0.1"]}, sample={"weights": "power-0.13"})
    assert smoke.replace(train={"ema": ["power:0.1"]}, sample={"weights": "power-0.1"}).sample.weights == "power-0.1"
    free = smoke.replace(train={"snapshots": 32})
    assert free.training_key == smoke.training_key

"""The moving average of weights, against diffusers' and in closed form."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from guidebook.config.params import ParamsError, load
from guidebook.config.paths import RESULTS
from guidebook.config.schema import track_name
from guidebook.models import build
from guidebook.report.banner import banner
from guidebook.runs.run import opened
from guidebook.training.ema import EMA, as_vector, averages, decay_at


def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Conv2d(2, 3, 3)
        return torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)


@torch.no_grad()
def walk(model: torch.nn.Module, step: int) -> None:
    rng = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=rng))


def vector(model: torch.nn.Module) -> torch.Tensor:
    return as_vector([*model.parameters()])[0]


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_every_step_is_diffusers(decay):
    model = network()
    ours, theirs = EMA(model.named_parameters(), decay), EMAModel(model.parameters(), decay=decay)
    for step in range(60):  # with 0.5 and 0.9 the warm-up ends on the way, with 0.999 it does not
        walk(model, step)
        ours.update(vector(model))
        theirs.step(model.parameters())
        for a, b in zip(ours.weights.values(), theirs.shadow_params, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # the weights have walked about 8 from zero


def test_the_first_update_takes_the_weights_as_they_are():
    model = network()
    average = EMA(model.named_parameters(), 0.999)
    walk(model, 0)
    average.update(vector(model))
    for a, p in zip(average.weights.values(), model.parameters(), strict=True):
        assert torch.equal(a, p)


@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_towards_constant_weights_the_distance_is_the_product_of_the_decays(decay):
    average = EMA([("w", torch.zeros(3, dtype=torch.float64))], decay)
    average.update(as_vector([torch.zeros(3, dtype=torch.float64)])[0])
    left = 1.0
    for k in range(1, 40):
        average.update(as_vector([torch.ones(3, dtype=torch.float64)])[0])
        left *= min(decay, (1 + k) / (10 + k))
        torch.testing.assert_close(1 - average.weights["w"], torch.full((3,), left, dtype=torch.float64))


def test_an_average_of_constant_weights_is_those_weights():
    model = network()
    average = EMA(model.named_parameters(), 0.9)
    for _ in range(20):
        average.update(vector(model))
    for name, p in model.named_parameters():
        torch.testing.assert_close(average.weights[name], p.detach(), rtol=1e-6, atol=0)


def test_the_average_is_a_copy():
    model = network()
    average = EMA(model.named_parameters(), 0.9)
    before = {name: w.clone() for name, w in average.weights.items()}
    walk(model, 0)
    assert all(torch.equal(average.weights[name], before[name]) for name in before)
    assert not any(w.requires_grad for w in average.weights.values())


def test_its_keys_are_those_of_the_state_dict():
    unet = build(load("mnist", "smoke"))
    average = EMA(unet.named_parameters(), 0.9)
    assert list(average.weights) == list(unet.state_dict())
    unet.load_state_dict(average.weights)


def test_averages_of_several_decays_keep_apart():
    model = network()
    fast, slow = (EMA(model.named_parameters(), d) for d in (0.5, 0.99))
    for step in range(50):
        walk(model, step)
        fast.update(vector(model))
        slow.update(vector(model))
    gap = {a.name: max((a.weights[n] - p).abs().max() for n, p in model.named_parameters()) for a in (fast, slow)}
    assert gap["ema-0.5"] < gap["ema-0.99"]


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_without_a_warm_up_the_decay_is_constant_and_the_first_weights_are_forgotten_by_it(decay):
    average = EMA([("w", torch.ones(3, dtype=torch.float64))], decay, warmup=False)
    for k in range(1, 30):
        average.update(as_vector([torch.zeros(3, dtype=torch.float64)])[0])
        torch.testing.assert_close(average.weights["w"], torch.full((3,), decay**k, dtype=torch.float64))


def test_averages_that_the_warm_up_makes_one_are_refused_and_both_named():
    weights = [("w", torch.zeros(2))]
    with pytest.raises(
        ParamsError, match=r"train.ema = \[0.999, 0.9999\] are one average: .* at most 0.99108 after 1,000 updates"
    ):
        averages(weights, (0.9, 0.999, 0.9999), True, 1_000)
    for warmup in (False, True):  # one decay twice is one average, however it warms up
        with pytest.raises(ParamsError, match=r"\[0.9, 0.9\] are one average: leave all but one out$"):
            averages(weights, (0.9, 0.9), warmup, 1_000)
    assert len(averages(weights, (0.9, 0.999, 0.9999), True, 10_000)) == 3
    assert len(averages(weights, (0.999, 0.9999), False, 5)) == 2
    assert decay_at(8_991, 0.9999, True) < 0.9999 == decay_at(89_991, 0.9999, True)
    assert decay_at(8_990, 0.999, True) == 0.999 > decay_at(8_980, 0.999, True)


@pytest.mark.parametrize("folder", sorted(p.parent for p in RESULTS.rglob("params.yml")), ids=str)
def test_every_record_says_what_decay_its_averages_had_in_the_end_and_its_page_does(folder):
    run = opened(folder)
    facts, t = run.provenance(), run.params.train
    last = {track_name(d): decay_at(facts["updates"] - 1, d, t.ema_warmup) for d in t.ema}
    assert facts.get("last_decay", {}) == pytest.approx(last)
    decay = facts.get("last_decay", {}).get(run.params.sample.weights)
    assert (f", whose decay was {decay or 0:.4g} in the end" in banner(run)) == (decay is not None)

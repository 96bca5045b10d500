"""The classifier of noisy images: it reads what can be read, says so with probabilities, and is trained once."""

import itertools
import json

import pytest
import torch

from guidebook.config import params as P
from guidebook.data.images import from_uint8, load
from guidebook.diffusion import classifier as module
from guidebook.diffusion.classifier import NoisyClassifier, noisy_classifier
from guidebook.diffusion.objective import objective

PARAMS = P.load("mnist", "smoke").replace(data={"limit": None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        runs = tmp_path_factory.mktemp("classifier")
        patch.setenv("GUIDEBOOK_RUNS", str(runs))
        patch.setattr(module, "STEPS", 200)
        module.noisy_classifier.cache_clear()
        yield runs / "judges"
        module.noisy_classifier.cache_clear()


@pytest.fixture(scope="module")
def reader(folder):
    return noisy_classifier(PARAMS)


def refuse(*_):
    raise AssertionError("trained anew")


def noisy(t: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The test images with noise of timestep t, and their classes."""
    test = load(PARAMS.data).test
    x0 = from_uint8(test.images, *PARAMS.data.range)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    return objective(PARAMS.objective, "cpu").add_noise(x0, eps, torch.tensor(t)), test.labels


def right(reader, t: int) -> float:
    x, labels = noisy(t)
    with torch.no_grad():
        return (reader(x, torch.tensor(t)).argmax(1) == labels).double().mean().item()


def test_it_reads_images_it_has_not_seen_the_worse_the_more_noise(reader):
    found = [right(reader, t) for t in (10, 250, 450, 700)]
    assert found[0] > 0.85
    assert all(a > b + 0.1 for a, b in itertools.pairwise(found)), found
    assert abs(right(reader, 999) - 0.1) < 4 * (0.1 * 0.9 / 360) ** 0.5  # noise alone: chance


def test_what_it_says_of_its_accuracy_is_so(reader, folder):
    (path,) = folder.glob("noisy-digits-*/classifier.json")
    bins = json.loads(path.read_text())["accuracy"]
    assert bins == reader.accuracy
    assert [(b["from"], b["to"], b["n"]) for b in bins] == [(i / 10, (i + 1) / 10, 360) for i in range(10)]
    for i in (0, 2, 4, 9):
        here = sum(right(reader, 100 * i + t) for t in (10, 30, 50, 70, 90)) / 5
        assert bins[i]["right"] / 360 == pytest.approx(here, abs=0.08)


def test_its_probabilities_are_those_of_one_class_of_ten(reader):
    x, labels = noisy(300)
    each = torch.stack([reader.log_prob(x, torch.tensor(300), torch.full_like(labels, k)) for k in range(10)])
    torch.testing.assert_close(each.exp().sum(0), torch.ones(len(x)))
    assert torch.equal(each.argmax(0), reader(x, torch.tensor(300)).argmax(1))
    assert each.gather(0, labels[None]).mean() > each.mean() + 1


def test_each_image_has_a_timestep_of_its_own(reader):
    x, labels = noisy(300)
    x, labels, t = x[:3], labels[:3], torch.tensor([0, 300, 900])
    together = reader.log_prob(x, t, labels)
    alone = torch.cat([reader.log_prob(x[i : i + 1], t[i], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together - reader.log_prob(x, torch.tensor(300), labels)).abs()[[0, 2]].min() > 0.01


@pytest.mark.parametrize("t", [100, 500])
def test_its_gradient_is_the_change_of_the_log_probability(reader, t):
    """Against differences along random directions, in double precision; of each image by itself."""
    double = NoisyClassifier(1, 8, 10).double()
    double.load_state_dict(reader.state_dict())
    x, labels = (v[:6] for v in noisy(t))
    x, t, h = x.double().requires_grad_(), torch.tensor(t), 1e-5
    (gradient,) = torch.autograd.grad(double.log_prob(x, t, labels).sum(), x)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3
    for seed in range(3):
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, back = (double.log_prob(x + step * way, t, labels) for step in (h, -h))
        torch.testing.assert_close((gradient * way).sum((1, 2, 3)), (ahead - back) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 8), (3, 16), (1, 28), (3, 32), (3, 64)])
def test_it_takes_images_of_every_size(channels, resolution):
    x = torch.zeros(2, channels, resolution, resolution)
    assert NoisyClassifier(channels, resolution, 7)(x, torch.tensor(5)).shape == (2, 7)


def test_it_is_trained_once(reader, monkeypatch):
    monkeypatch.setattr(module, "_train", refuse)
    module.noisy_classifier.cache_clear()  # as in another process
    again, (x, _) = noisy_classifier(PARAMS), noisy(100)
    assert again is not reader
    assert torch.equal(again(x, torch.tensor(100)), reader(x, torch.tensor(100)))
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(("same", "change"), [
    (True, {"data": {"caption": "number {label}"}}), (True, {"objective": {"prediction": "v_prediction"}}),
    (True, {"sample": {"guidance": [2]}, "train": {"seed": 5}}),
    (False, {"data": {"range": [-1.0, 1.0]}}), (False, {"data": {"limit": 500}}), (False, {"data": {"flips": True}}),
    (False, {"data": {"resolution": 16}}), (False, {"objective": {"schedule": "linear", "betas": [1e-4, 0.02]}}),
    (False, {"objective": {"timesteps": 500}}),
])  # fmt: skip
def test_it_is_another_where_the_noisy_images_are_others_and_only_there(reader, monkeypatch, same, change):
    monkeypatch.setattr(module, "_train", refuse)
    params = PARAMS.replace(**change)
    if same:
        assert noisy_classifier(params).accuracy == reader.accuracy
    else:
        with pytest.raises(AssertionError, match="trained anew"):
            noisy_classifier(params)


def test_two_trainings_are_equal_whatever_ran_before(folder, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 3)
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder / f"again-{seed}"))
        module.noisy_classifier.cache_clear()
        before = torch.get_rng_state()
        weights.append(noisy_classifier(PARAMS).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_it_is_trained_in_fp32_that_is_fp32(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_train", lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder / "fp32"))
    module.noisy_classifier.cache_clear()
    noisy_classifier(PARAMS)
    module.noisy_classifier.cache_clear()
    assert seen == [False]


def test_changed_weights_are_not_read_but_trained_anew(folder, monkeypatch, caplog):
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(folder / "corrupt"))
    module.noisy_classifier.cache_clear()
    noisy_classifier(PARAMS)
    (path,) = (folder / "corrupt" / "judges").glob("noisy-*/model.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    module.noisy_classifier.cache_clear()
    with caplog.at_level("WARNING"):
        noisy_classifier(PARAMS)
    assert "model.safetensors is not what was written; it is made anew" in caplog.text

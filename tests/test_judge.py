"""The judge: it can read, and it is trained once."""

from dataclasses import fields, replace

import pytest
import torch

from guidebook.config.params import Data
from guidebook.data.images import load
from guidebook.metrics import judge as module
from guidebook.metrics import judge_training
from guidebook.metrics.judge import FEATURES, judge
from guidebook.metrics.judge_training import Recipe
from guidebook.runs import preemption
from guidebook.runs.preemption import Preempted

DIGITS = Data(name="digits", resolution=8, range=(0.0, 1.0), caption="{label}", limit=None, flips=False)
TINY = Recipe("cpu", widths=(8, 8), depth=1, epochs=1, batch=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("judge")
        patch.setenv("GUIDEBOOK_RUNS", str(folder))
        judge.cache_clear()
        yield folder / "judges"
        judge.cache_clear()


@pytest.fixture(scope="module")
def reader(folder):
    return judge(DIGITS)


@pytest.fixture
def tiny_recipe(folder, monkeypatch):
    """A judge of a few steps; `use` another recipe of its kind."""

    def use(recipe=TINY):
        monkeypatch.setattr(module, "recipes", lambda: {"digits": {"cpu": recipe}})
        judge.cache_clear()

    use()
    yield use
    judge.cache_clear()


def refuse(*_):
    raise AssertionError("trained again")


def test_the_judge_reads_at_least_97_percent_of_digits_it_has_not_seen(reader):
    test = load(DIGITS).test
    assert (reader.read(test.images)["classes"] == test.labels).double().mean().item() >= 0.97


def test_what_it_says_depends_on_the_image_alone(reader):
    images = load(DIGITS).test.images[:50]
    read = reader.read(images)
    classes, features = read["classes"], read["features"]
    for (name, shape, dtype), rows in zip(reader.gives, read.values(), strict=True):
        assert read[name] is rows
        assert rows.shape == (50, *shape)
        assert str(rows.dtype) == f"torch.{dtype}"
    assert FEATURES == features.shape[1] == 64
    for i in (0, 49):
        alone = reader.read(images[i : i + 1])
        assert alone["classes"][0] == classes[i]
        torch.testing.assert_close(alone["features"][0], features[i], rtol=1e-4, atol=1e-4)


def test_its_features_tell_the_classes_apart_and_are_standardised_by_the_train_split(reader):
    data = load(DIGITS)
    test, seen = reader.read(data.test.images)["features"], reader.read(data.train.images)["features"].double()
    centres = torch.stack([test[data.test.labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(test, centres).argmin(1) == data.test.labels).double().mean() > 0.95
    torch.testing.assert_close(seen.mean(0), torch.zeros(64).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(64).double(), atol=1e-4, rtol=0)


def test_a_judge_is_trained_once(reader, monkeypatch):
    monkeypatch.setattr(Recipe, "train", refuse)
    judge.cache_clear()  # as in another process
    again = judge(DIGITS)
    images = load(DIGITS).test.images
    assert again.name == reader.name
    assert torch.equal(again.read(images)["features"], reader.read(images)["features"])


def test_other_captions_have_the_same_judge_and_other_pixels_another(reader, monkeypatch):
    monkeypatch.setattr(Recipe, "train", refuse)
    assert judge(DIGITS.model_copy(update={"caption": "number {label}", "range": (-1.0, 1.0)})).name == reader.name
    with pytest.raises(AssertionError, match="trained again"):
        judge(DIGITS.model_copy(update={"limit": 100}))


def test_its_name_is_that_of_its_weights(tiny_recipe, folder):
    """Two machines train by one recipe what differs: then two judges read, and their numbers are kept apart."""
    first, weights = judge(DIGITS), {}
    for seed in (0, 1):
        tiny_recipe(replace(TINY, seed=seed))
        weights[judge(DIGITS).name] = judge(DIGITS).network.out.weight
    assert first.name in weights
    assert len(weights) == 2
    assert all(name.startswith("judge-digits-") and len(name) == len("judge-digits-") + 8 for name in weights)


@pytest.mark.parametrize("field", [f.name for f in fields(Recipe) if f.name not in ("device", "attributes")])
def test_whatever_a_recipe_says_makes_another_judge(tiny_recipe, folder, field, monkeypatch):
    judge(DIGITS)
    others = {"seed": 7, "side": 6, "mirror": False, "smoothing": 0.2, "momentum": 0.8}
    tiny_recipe(replace(TINY, **{field: others[field] if field in others else getattr(TINY, field) * 2}))
    monkeypatch.setattr(Recipe, "train", refuse)
    with pytest.raises(AssertionError, match="trained again"):
        judge(DIGITS)


def test_a_judge_trained_in_bf16_is_another_than_one_in_fp32(tiny_recipe, folder, monkeypatch):
    names = set()
    for able in (True, False):
        monkeypatch.setattr(judge_training, "native_bf16", lambda kind, able=able: able)
        judge.cache_clear()
        names |= {judge(DIGITS).name}
    assert len(names) == 2


def test_stopped_while_it_is_trained_it_is_saved_and_goes_on_to_the_same_judge(tiny_recipe, folder, monkeypatch):
    tiny_recipe(replace(TINY, epochs=2))
    whole, real = judge(DIGITS).name, preemption.Stop.asked
    for made in folder.glob("judge-digits-*"):
        made.rename(made.with_name(f"old-{made.name}"))
    judge.cache_clear()
    monkeypatch.setattr(preemption.Stop, "asked", lambda _: True)
    with pytest.raises(Preempted, match="stopped training the judge after 1 of 9 steps"):
        judge(DIGITS)
    (state,) = folder.glob(".judge-*")
    assert not list(folder.glob("judge-*"))
    monkeypatch.setattr(preemption.Stop, "asked", real)
    assert judge(DIGITS).name == whole
    assert not state.exists()

"""The judge: it can read, and it is trained once."""

import pytest
import torch

from guidebook.config.params import Data
from guidebook.data.images import load
from guidebook.metrics import judge as module
from guidebook.metrics.classifier_nets import FEATURES
from guidebook.metrics.classifiers import Residual, Small
from guidebook.metrics.judge import judge

DIGITS = Data(name="digits", resolution=8, range=(0.0, 1.0), caption="{label}", limit=None, flips=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp("judge")))
        judge.cache_clear()
        yield
        judge.cache_clear()


@pytest.fixture(scope="module")
def reader(folder):
    return judge(DIGITS)


def test_the_judge_reads_at_least_97_percent_of_digits_it_has_not_seen(reader):
    test = load(DIGITS).test
    right = (reader.read(test.images)[0] == test.labels).double().mean().item()
    assert right >= 0.97
    assert reader.accuracy[0] == right
    assert reader.accuracy[1] < right < reader.accuracy[2]
    assert reader.n == len(test) == 360
    assert reader.name == "judge-digits-e1a3ed85"  # what the metrics of recorded runs call it


def test_what_it_says_depends_on_the_image_alone(reader):
    images = load(DIGITS).test.images[:50]
    classes, features = reader.read(images)
    assert classes.shape == (50,)
    assert classes.dtype == torch.int64
    assert features.shape == (50, FEATURES) == (50, 64)
    for i in (0, 49):
        alone = reader.read(images[i : i + 1])
        assert alone[0][0] == classes[i]
        torch.testing.assert_close(alone[1][0], features[i], rtol=1e-4, atol=1e-4 * features.std().item())


def test_its_features_tell_the_classes_apart(reader):
    test = load(DIGITS).test
    features = reader.read(test.images)[1]
    centres = torch.stack([features[test.labels == k].mean(0) for k in range(10)])
    assert (torch.cdist(features, centres).argmin(1) == test.labels).double().mean() > 0.95


def test_a_judge_is_trained_once(reader, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Small, "train", refuse)
    judge.cache_clear()  # as in another process
    again = judge(DIGITS)
    images = load(DIGITS).test.images
    assert again.name == reader.name
    assert again.accuracy == reader.accuracy
    assert torch.equal(again.read(images)[1], reader.read(images)[1])


def test_other_captions_have_the_same_judge_and_other_pixels_another(reader, monkeypatch):
    def refuse(*_):
        raise AssertionError("another judge")

    monkeypatch.setattr(Small, "train", refuse)
    assert judge(DIGITS.model_copy(update={"caption": "number {label}", "range": (-1.0, 1.0)})).name == reader.name
    with pytest.raises(AssertionError, match="another judge"):
        judge(DIGITS.model_copy(update={"limit": 100}))


def test_a_residual_judge_read_from_its_folder_is_the_one_that_was_trained(folder, monkeypatch):
    recipe = Residual("cpu", widths=(8, 8), depth=1, epochs=1, cutout=0, batch=100)
    monkeypatch.setattr(module, "recipes", lambda: {"digits": {"cpu": recipe}})
    judge.cache_clear()
    images, first = load(DIGITS).test.images, judge(DIGITS)
    monkeypatch.setattr(Residual, "train", None)
    judge.cache_clear()
    again = judge(DIGITS)
    judge.cache_clear()
    assert again.name == first.name != "judge-digits-e1a3ed85"
    assert again.accuracy == first.accuracy
    assert first.accuracy[0] == (again.read(images)[0] == load(DIGITS).test.labels).double().mean().item()
    assert torch.equal(again.read(images)[1], first.read(images)[1])

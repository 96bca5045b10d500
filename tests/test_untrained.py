"""The published classifier: its last layer was never trained, so it knows nothing of any image."""

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from guidebook.data.images import Split, load
from guidebook.metrics import intervals
from guidebook.metrics import untrained as P
from guidebook.metrics import weights as W
from guidebook.metrics.difference import influence
from guidebook.metrics.subject import of_real, of_samples
from guidebook.runs.run import open_run
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of torch.hub that holds nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def digits(tiny):
    test = load(tiny.replace(data={"limit": None}).data).test
    return Split(test.images[:60], test.labels[:60])


def in_colour(split: Split) -> Split:
    return Split(split.images.expand(-1, 3, -1, -1), split.labels)


def test_if_the_rows_of_its_last_layer_take_every_turn_it_is_right_exactly_one_time_in_ten(digits):
    reader, right = P.Untrained(1, 10, seed=3, heads=1), 0
    reader.network.fc.bias.data.normal_()
    for _ in range(10):
        right += int((reader.read(digits.images)["classes"][:, 0] == digits.labels).sum())
        for parameter in reader.network.fc.parameters():
            parameter.data = parameter.data.roll(1, 0)
    assert right == len(digits)


def test_over_draws_its_accuracy_on_real_images_is_chance(digits):
    found, name = P.accuracies(in_colour(digits), 10, bodies=2)
    assert found.shape == (2 * P.HEADS,)
    assert name == "resnet18-untrained, random body"
    _, low, high = intervals.mean(found)
    assert low < 0.1 < high
    assert found.std() > 0, "draws of one classifier"


def test_its_heads_are_drawn_apart(digits):
    read = P.Untrained(1, 10, seed=0).read(digits.images)["classes"]
    assert read.shape == (len(digits), P.HEADS)
    assert (
        len({tuple(column) for column in read.T.tolist()}) > P.HEADS / 2
    )  # some say one class of all digits, and the same one


def test_one_seed_is_one_classifier_whatever_was_drawn_before(digits):
    first = P.Untrained(1, 10, seed=0)
    torch.rand(3)
    again, other = P.Untrained(1, 10, seed=0), P.Untrained(1, 10, seed=1)
    assert torch.equal(first.read(digits.images)["classes"], again.read(digits.images)["classes"])
    assert torch.equal(first.network.conv1.weight, again.network.conv1.weight)
    assert not torch.equal(first.network.conv1.weight, other.network.conv1.weight)


def test_drawing_a_classifier_leaves_the_random_numbers_of_others_alone():
    state = torch.get_rng_state()
    P.Untrained(1, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_its_first_layer_keeps_the_resolution_and_its_last_has_a_row_for_each_class():
    network = P.Untrained(3, 7, seed=0, heads=2).network
    assert network.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 2 * 7)


def test_a_file_that_is_not_imagenets_is_refused(cache):
    assert W.why_absent("published") is None  # without a file it is a random body
    torch.save(resnet18(weights=None).state_dict(), cache / W.RESNET.file)
    assert "is not the published file" in W.why_absent("published")
    with pytest.raises(W.WeightsMissing, match="not the published file"):
        P.Untrained(3, 10, seed=0)


def test_with_imagenets_weights_only_the_first_and_last_layer_are_drawn(cache, monkeypatch):
    weights = resnet18(weights=None).state_dict()
    torch.save(weights, cache / W.RESNET.file)
    monkeypatch.setattr(P, "RESNET", W.Weights(W.RESNET.file, "", W.RESNET.source))
    reader = P.Untrained(3, 10, seed=0)
    assert reader.name == "resnet18-untrained, imagenet body"
    drawn = {k for k, v in reader.network.state_dict().items() if not (k in weights and torch.equal(v, weights[k]))}
    assert drawn == {"conv1.weight", "fc.weight", "fc.bias"}


def test_the_record_of_a_set_holds_every_draw_and_between_which_most_lie(tiny, runs, digits, monkeypatch):
    monkeypatch.setattr(P, "BODIES", 2)
    run = open_run(tiny)
    facts = {"draw": Draw.of(run.params, 5.0, 60).json, "seconds_per_image": 0.1, "n": 60}
    facts["labels"] = digits.labels.tolist()
    (found,) = P.of_untrained(run, of_samples(run, ImageSet("w5", run.path, digits.images.numpy(), facts)))
    each, _ = P.accuracies(digits, 10, 2)
    assert (found["value"], found["n"], found["guidance"]) == (pytest.approx(each.mean(), abs=1e-6), 60, 5.0)
    assert found["low"] == pytest.approx(np.quantile(each, 0.025), abs=1e-6)
    assert found["interval"] == "95 % of 200 draws"
    np.testing.assert_allclose(influence(found, "draws"), each, atol=1e-3)


def test_real_images_are_read_by_the_same_draws(tiny, runs, monkeypatch):
    monkeypatch.setattr(P, "BODIES", 1)
    run = open_run(tiny)
    real = of_real(run, "test")
    (found,) = P.of_untrained(run, real, n=30)
    each, _ = P.accuracies(Split(real.images[real.order[:30]], real.labels[real.order[:30]]), 10, 1)
    assert (found["n"], found["value"]) == (30, pytest.approx(each.mean(), abs=1e-6))
    assert found["low"] < found["value"] < found["high"]

"""Recipes of classifiers: what a judge's key names, how images are augmented, how they learn."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from guidebook.config.datasets import CATALOG
from guidebook.data.images import Split, packed
from guidebook.metrics import judge_training as C
from guidebook.metrics.judge import recipes

TINY = C.Recipe("cpu", widths=(8, 8), depth=1, epochs=3, shift=2, batch=20)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def numbered(n: int, size: int = 8) -> torch.Tensor:
    """Images of one flat colour each, its own: whatever is done to one, it can be told from the others."""
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, size, size)


def every_recipe():
    return [pytest.param(r, id=f"{name}-{kind}") for name, kinds in recipes().items() for kind, r in kinds.items()]


# Recipes


@pytest.mark.parametrize("recipe", every_recipe())
def test_every_recipe_builds_a_network_of_64_features(recipe):
    network = recipe.build(3, 7).eval()
    logits, features = network(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert logits.shape == (2, 7)
    assert features.shape == (2, C.FEATURES) == (2, 64)


def test_every_data_set_has_a_recipe_that_every_machine_can_follow():
    assert recipes().keys() >= CATALOG.keys()
    assert all("cpu" in kinds for kinds in recipes().values())
    named = [(kind, r.device) for kinds in recipes().values() for kind, r in kinds.items()]
    assert all(kind == device for kind, device in named)


@pytest.mark.parametrize("able", [True, False])
def test_it_is_trained_in_the_precision_that_its_key_says(able, monkeypatch, tmp_path):
    monkeypatch.setattr(C, "native_bf16", lambda kind: able)
    real, seen = C.ResidualNet.forward, set()

    def forward(self, pixels):
        logits, features = real(self, pixels)
        seen.add(logits.dtype)
        return logits, features

    monkeypatch.setattr(C.ResidualNet, "forward", forward)
    trained(replace(TINY, epochs=1), two_kinds(40), tmp_path)
    assert seen == {torch.bfloat16 if able else torch.float32}


# Augmentation


def test_a_window_is_a_shift_of_the_padded_image_mirrored_or_not(images):
    index = torch.tensor([3, 3, 0, 49])
    shift = torch.tensor([[0, 0], [2, -1], [-2, 2], [1, 2]])
    mirrored = torch.tensor([False, False, True, True])
    padded = F.pad(images.float(), [2] * 4, mode="reflect").to(torch.uint8)
    found = C.moved(images, index, shift, mirrored)
    for window, i, (down, right), mirror in zip(found, index, shift.tolist(), mirrored, strict=True):
        expected = padded[i, :, 2 + down : 10 + down, 2 + right : 10 + right]
        assert torch.equal(window, expected.flip(-1) if mirror else expected)


def test_an_augmented_image_keeps_its_place_among_the_labels():
    images = numbered(50)
    for step in range(6):
        pixels, index = TINY.augmented(images, step)
        assert torch.equal(pixels, images[index])


def test_in_two_epochs_every_image_is_seen_once_as_it_is_and_once_mirrored(images):
    recipe, seen = replace(TINY, shift=0), {i: [] for i in range(50)}
    for step in range(5):
        for pixels, i in zip(*recipe.augmented(images, step), strict=True):
            seen[int(i)].append(pixels)
    for i, (first, second) in seen.items():
        assert torch.equal(first, second.flip(-1))
        assert any(torch.equal(first, x) for x in (images[i], images[i].flip(-1)))
    mirrored = sum(not torch.equal(pair[0], images[i]) for i, pair in seen.items())
    assert 10 < mirrored < 40, "mirrored all at once"


def test_images_of_a_batch_move_each_on_its_own(images):
    same = images[:1].expand(50, -1, -1, -1)
    pixels, _ = TINY.augmented(same, 0)
    assert len(pixels.unique(dim=0)) > 10
    assert torch.equal(pixels, TINY.augmented(same, 0)[0])
    assert not torch.equal(pixels, TINY.augmented(same, 1)[0])


# Learning


def test_the_learning_rate_rises_once_to_its_peak_and_falls_to_0():
    rate = torch.tensor([C.one_cycle(step, 100) for step in range(101)])
    assert rate[25] == rate.max() == 1
    assert (rate[:26].diff() > 0).all()
    assert (rate[25:].diff() < 0).all()
    assert rate[100] == 0


def test_the_stem_gives_the_principal_components_of_patches_each_of_variance_1(images):
    network = TINY.build(3, 10)
    network.whiten(images)
    seen = network.stem(images.float() / 127.5 - 1).permute(1, 0, 2, 3).flatten(1)
    half = seen[:12]
    torch.testing.assert_close(seen[12:], -half, rtol=0, atol=1e-4)
    torch.testing.assert_close(half.mean(1), torch.zeros(12), rtol=0, atol=1e-4)
    torch.testing.assert_close(half.cov(), torch.eye(12), rtol=0, atol=2e-3)


def two_kinds(n: int) -> Split:
    """Bright above or bright below, with noise."""
    rng = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 2
    base = torch.zeros(n, 3, 8, 8)
    base[labels == 0, :, :4], base[labels == 1, :, 4:] = 120.0, 120.0
    return Split((base + 100 * torch.rand(base.shape, generator=rng)).to(torch.uint8), labels)


def trained(recipe, split: Split, folder):
    state = torch.get_rng_state()
    network = recipe.build(3, 2)
    recipe.train(network, split, folder / "state")
    assert torch.equal(torch.get_rng_state(), state), "the random numbers of others were used"
    return network


def test_training_is_a_function_of_its_recipe_and_data(tmp_path):
    split = two_kinds(100)
    first = trained(TINY, split, tmp_path)
    torch.rand(3)
    again, other = trained(TINY, split, tmp_path), trained(replace(TINY, seed=1), split, tmp_path)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not torch.equal(first.out.weight, other.out.weight)
    assert not first.training


def test_a_network_learns_what_can_be_seen(tmp_path):
    network, unseen = trained(replace(TINY, epochs=8), two_kinds(200), tmp_path), two_kinds(101)
    assert (network(unseen.images)[0].argmax(1) == unseen.labels).double().mean() > 0.95


def test_where_images_are_not_mirrored_none_is(images):
    recipe = replace(TINY, shift=0, mirror=False)
    for step in range(5):
        pixels, index = recipe.augmented(images, step)
        assert torch.equal(pixels, images[index])


# Attributes, and large images


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_objective_of_classes_and_of_attributes_is_its_closed_form(smoothing):
    rng = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(6, 5, generator=rng), torch.tensor([0, 1, 2, 3, 4, 2])
    yes, target = logits.sigmoid(), torch.rand(6, 5, generator=rng) < 0.4
    even = (1 - smoothing) * torch.eye(5)[classes] + smoothing / 5
    expected = -(even * logits.log_softmax(1)).sum(1).mean()
    assert C.objective(logits, classes, False, smoothing).item() == pytest.approx(expected.item(), rel=1e-5)
    soft = target * (1 - smoothing) + smoothing / 2
    expected = -(soft * yes.log() + (1 - soft) * (1 - yes).log()).mean()
    assert C.objective(logits, packed(target), True, smoothing).item() == pytest.approx(expected.item(), rel=1e-5)


def test_large_images_are_shrunk_to_means_of_squares_and_small_ones_left_alone(images):
    assert C.shrunk(images, None) is images
    assert C.shrunk(images, 8) is images
    assert C.shrunk(images, 32) is images
    many = torch.randint(0, 256, (1030, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = many.double().view(1030, 3, 8, 2, 8, 2).mean((3, 5)).round()
    assert torch.equal(C.shrunk(many, 8), expected.to(torch.uint8))

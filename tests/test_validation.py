"""The validation loss: fixed images, captions, noise and times, and no trace of it in the training."""

import pytest
import torch

from guidebook.data.images import load
from guidebook.runs.run import open_run
from guidebook.training import validation
from guidebook.training.loop import train
from guidebook.training.step import prepared
from guidebook.training.validation import LEVELS, Validation


def same_weights(a, b):
    names = ("raw", "ema-0.9")
    files = [
        [(r.path / "model" / n / "diffusion_pytorch_model.safetensors").read_bytes() for r in (a, b)] for n in names
    ]
    return all(one == other for one, other in files)


def test_a_network_that_answers_zero_has_the_mean_square_of_the_noise_at_every_level(tiny):
    trainer = prepared(tiny)
    for weight in trainer.weights:
        weight.data.zero_()
    found = Validation(trainer)()
    _, _, noise, times = validation._fixed(trainer)
    squares = noise.square().flatten(2).mean(2)
    torch.testing.assert_close(torch.tensor(found["validation_loss_by_level"]), squares.mean(1), rtol=1e-5, atol=0)
    error = squares.std(1) / squares.shape[1] ** 0.5
    torch.testing.assert_close(torch.tensor(found["validation_error_by_level"]), error, rtol=1e-4, atol=0)
    assert found["validation_loss"] == pytest.approx(squares.mean().item(), rel=1e-5)
    assert found["validation_loss"] == pytest.approx(1, abs=0.05)
    assert times.tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


def test_it_asks_for_held_out_images_with_the_captions_of_their_own_labels(tiny):
    trainer, data = prepared(tiny), load(tiny.data)
    x0, cond, *_ = validation._fixed(trainer)
    rows = torch.linspace(0, len(data.test) - 1, len(x0)).long()
    torch.testing.assert_close(x0, trainer.space.encoded(data.test.images[rows]))
    assert len(set(rows.tolist())) == len(rows) == min(64, len(data.test))
    torch.testing.assert_close(cond.tokens, trainer.conditions._classes[data.test.labels[rows]])


def test_trainings_of_any_seed_are_asked_the_same(tiny):
    one, other = (validation._fixed(prepared(tiny.replace(train={"seed": seed}))) for seed in (0, 1))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[2], other[2])


def test_a_training_ends_in_the_same_weights_and_losses_with_it_and_without(tiny, runs, monkeypatch):
    train(with_it := open_run(tiny))
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs.with_name("others")))
    monkeypatch.setattr(Validation, "__call__", lambda self: {})
    train(without := open_run(tiny))
    assert same_weights(with_it, without)
    assert [line["loss"] for line in with_it.stats()] == [line["loss"] for line in without.stats()]
    held = [line for line in with_it.stats() if "validation_loss" in line]
    assert [line["nimg"] for line in held] == [64, 128]  # at both checkpoints, of which the second is the end
    assert all(len(line["validation_loss_by_level"]) == LEVELS for line in held)
    assert held[1]["validation_loss"] < held[0]["validation_loss"]
    assert not any("validation_loss" in line for line in without.stats())

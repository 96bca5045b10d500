"""Training beyond resume: parts of a batch, dropped captions, sealed models, and data that is not what it was."""

import dataclasses
import shutil
import time

import pytest
import torch

from guidebook.config import params as P
from guidebook.config.budget import kept_checkpoints, updates
from guidebook.data.images import DataError, Split, load
from guidebook.diffusion.objective import Objective
from guidebook.runs.manifest import Corrupt
from guidebook.runs.preemption import Preempted, Stop
from guidebook.runs.run import open_run
from guidebook.training.checkpoint import complete, images, save
from guidebook.training.loop import train
from guidebook.training.model import load_model
from guidebook.training.step import NonFiniteLoss, prepared


def weights(params, data=None, steps=3):
    trainer = prepared(params, data or load(params.data))
    for _ in range(steps):
        trainer.step()
    return torch.cat([w.detach().flatten() for w in trainer.weights])


def with_labels(data, change):
    return dataclasses.replace(data, train=Split(data.train.images, change(data.train.labels)))


def test_the_published_setting_makes_2344_updates():
    assert updates(P.load("mnist", "paper")) == 2344  # 20 epochs of 60,000 at 512, to the nearest whole batch


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny):
    whole, parts = weights(tiny), weights(tiny.replace(train={"micro_batch": 5}))
    # The mean, because Adam's first steps turn the sign of a gradient near zero into a step of the size of lr, 1e-3
    assert (whole - parts).abs().mean() < 1e-5
    ignored = weights(tiny.replace(train={"batch": 5}))
    assert (whole - ignored).abs().mean() > 2e-4


def test_where_every_caption_is_dropped_labels_do_not_matter(tiny):
    data = load(tiny.data)
    turned = with_labels(data, lambda labels: (labels + 1) % 10)
    blind = tiny.replace(train={"caption_dropout": 1.0})
    assert torch.equal(weights(blind, data), weights(blind, turned))
    assert not torch.equal(weights(tiny, data), weights(tiny, turned))


def test_data_of_another_size_is_refused(tiny):
    data = load(tiny.data)
    less = dataclasses.replace(data, train=Split(data.train.images[:50], data.train.labels[:50]))
    with pytest.raises(DataError, match=r"has 50 train images, expected 64"):
        prepared(tiny, less)


def test_a_run_begun_on_other_data_does_not_go_on(runs, tiny):
    run = open_run(tiny)
    run.note(data={"fingerprint": "another"})
    with pytest.raises(DataError, match="began on data another"):
        train(run)
    assert not (run.path / "model").exists()


def test_a_changed_byte_of_a_model_is_refused(trained_run):
    run = trained_run
    load_model(run, "raw")
    file = run.path / "model" / "raw" / "diffusion_pytorch_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Corrupt, match=r"diffusion_pytorch_model\.safetensors is not what was written"):
        load_model(run, "raw")


def test_a_stop_for_the_run_stops_its_variant(runs, tiny):
    run = open_run(tiny)
    variant = run.variant("caption-dropout", train={"caption_dropout": 0.1})
    (run.path / "STOP").touch()
    with pytest.raises(Preempted) as stopped:
        train(variant)
    assert stopped.value.code == 75
    assert "saved; run again to go on" in str(stopped.value)
    assert not (run.path / "STOP").exists()
    train(variant)
    assert (variant.path / "model").is_dir()


def test_the_learning_rate_rises_along_a_line_and_stays(tiny):
    trainer, seen = prepared(tiny.replace(train={"lr": 1e-3, "warmup": 64}), load(tiny.data)), []
    for _ in range(6):
        trainer.step()
        seen.append(trainer.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])
    assert trainer.flush()["lr"] == pytest.approx(1e-3)


def test_a_loss_that_is_not_finite_is_told_with_the_rate_of_its_step(tiny):
    trainer = prepared(tiny.replace(train={"lr": 1e-3, "warmup": 64}), load(tiny.data))
    for _ in range(3):
        trainer.step()
    trainer.step_losses[1] = torch.tensor(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"^loss nan at step 1 \(16 images seen\), lr 0\.0005: "):
        trainer.flush()


def test_mirrored_images_are_as_many_as_not_and_nothing_else_changes(tiny, monkeypatch):
    data, seen, losses = load(tiny.data), [], Objective.loss

    def spy(self, net, x0, *rest):
        seen.append(x0)
        return losses(self, net, x0, *rest)

    monkeypatch.setattr(Objective, "loss", spy)
    batches = {}
    for flips in (False, True):
        seen.clear()
        trainer = prepared(tiny.replace(data={"flips": flips}), data)
        for _ in range(8):
            trainer.step()
        batches[flips] = torch.cat(seen)
    same = (batches[True] == batches[False]).flatten(1).all(1)
    mirrored = (batches[True] == batches[False].flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0.3 < mirrored.float().mean() < 0.7


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_other_predictions_and_weights_learn_too(tiny, prediction):
    told = {"prediction": prediction, "min_snr_gamma": 5.0}
    trainer = prepared(tiny.replace(objective=told, train={"lr": 2e-3}), load(tiny.data))
    losses = []
    for _ in range(40):
        trainer.step()
        losses.append(trainer.step_losses[-1])
    assert torch.stack(losses[-10:]).mean() < 0.8 * torch.stack(losses[:5]).mean()


def test_channels_last_changes_the_layout_and_not_the_training(tiny):
    plain, last = (prepared(tiny.replace(train={"channels_last": c}), load(tiny.data)) for c in (False, True))
    for trainer in (plain, last):
        trainer.step()
    convolution, other = (t.model.down_blocks[0].resnets[0].conv1.weight for t in (last, plain))
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert not other.is_contiguous(memory_format=torch.channels_last)
    difference = torch.cat([(a - b).flatten() for a, b in zip(plain.weights, last.weights, strict=True)])
    assert difference.abs().mean() < 1e-5
    assert last.state()[0]["ema-0.9"].keys() == plain.state()[0]["ema-0.9"].keys()


def test_a_checkpoint_of_another_layout_goes_on(runs, tiny):
    last = tiny.replace(train={"channels_last": True})
    trainer = prepared(last, load(tiny.data))
    trainer.step()
    tensors, state = trainer.state()
    tensors = {f: {k: v.detach().clone().contiguous() for k, v in g.items()} for f, g in tensors.items()}
    other = prepared(tiny, load(tiny.data))
    other.restore(tensors, state)
    for a, b in zip(trainer.weights, other.weights, strict=True):
        assert torch.equal(a, b)
    for name, weight in trainer.averages[0].weights.items():
        assert torch.equal(weight, other.averages[0].weights[name])


@pytest.mark.slow
def test_compiled_weights_keep_their_names_and_learn_the_same(tiny):
    plain, compiled = (prepared(tiny.replace(train={"compile": c}), load(tiny.data)) for c in (False, True))
    for trainer in (plain, compiled):
        trainer.step()
    for kind in ("model", "ema-0.9"):
        assert compiled.state()[0][kind].keys() == plain.state()[0][kind].keys()
    difference = torch.cat([(a - b).flatten() for a, b in zip(plain.weights, compiled.weights, strict=True)])
    assert difference.abs().mean() < 1e-5


def test_a_model_is_found_as_it_was_at_each_kept_checkpoint(trained_run):
    run = trained_run
    moments = kept_checkpoints(run.params)
    assert moments == [64, 128]
    early, late, end = (load_model(run, "ema-0.9", at).state_dict() for at in (*moments, None))
    assert all(torch.equal(late[k], end[k]) for k in end)
    assert not all(torch.equal(early[k], end[k]) for k in end)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint after 65 images, but after \[64, 128\]: take one of"):
        load_model(run, "raw", 65)


def test_what_is_said_of_a_checkpoint_that_is_not_kept_brings_it_back(trained_run, tiny):
    run = open_run(tiny.replace(train={"checkpoint_every": 0.5, "keep_checkpoints": 3}))
    wanted = kept_checkpoints(run.params)
    assert wanted == [64, 96, 128]
    train(run)  # nothing to do
    with pytest.raises(FileNotFoundError) as said:
        load_model(run, "raw", wanted[1])
    for folder in (run.path / "checkpoints", run.path / "model"):
        assert str(folder) in str(said.value)
        shutil.rmtree(folder)
    train(run)
    assert kept(run) == wanted
    load_model(run, "raw", wanted[1])


@pytest.mark.parametrize("stops", [*([n] for n in (1, 3, 4, 8, 9, 11)), range(1, 12)], ids=str)
def test_wherever_a_training_was_stopped_the_regular_checkpoints_are_kept(runs, tiny, monkeypatch, stops):
    """11 steps with a checkpoint after every third: the newest off the grid, or none, or a stop at one on it."""
    run = open_run(tiny.replace(train={"epochs": 11 / 4, "checkpoint_every": 3 / 4}))
    for step in stops:
        stop_at(run, step, monkeypatch)
        assert newest(run) == 16 * step
        assert set(range(48, 16 * step + 1, 48)[-2:]) <= set(kept(run))
    train(run)
    assert kept(run) == kept_checkpoints(run.params) == [96, 144]


def stop_at(run, step: int, monkeypatch) -> None:
    asked = iter([False] * (step - newest(run) // 16 - 1) + [True])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self: next(asked))
        with pytest.raises(Preempted, match=f"after {16 * step} images"):
            train(run)


def kept(run) -> list[int]:
    return [images(path) for path in complete(run.path / "checkpoints")]


def newest(run) -> int:
    return max(kept(run), default=0)


def test_a_stop_during_a_regular_save_waits_for_that_one_only(runs, tiny, monkeypatch):
    run, saved = open_run(tiny), []

    def spy(folder, nimg, *rest):
        (run.path / "STOP").touch()
        saved.append(nimg)
        time.sleep(0.15)  # longer than the file is looked for
        return save(folder, nimg, *rest)

    monkeypatch.setattr("guidebook.training.checkpoint.save", spy)
    with pytest.raises(Preempted, match="after 64 images"):
        train(run)
    assert saved == [64]

"""Training beyond resume: parts of a batch, dropped captions, sealed models, and data that is not what it was."""

import dataclasses

import pytest
import torch

from guidebook import params as P
from guidebook.data.images import DataError, Split, load
from guidebook.run import open_run
from guidebook.schedule import updates
from guidebook.seal import Corrupt
from guidebook.stopping import Preempted
from guidebook.trainer import Trainer
from guidebook.training import load_model, train


def weights(params, data=None, steps=3):
    trainer = Trainer(params, data or load(params.data))
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


def test_a_label_beyond_the_classes_is_refused(tiny):
    data = with_labels(load(tiny.data), lambda labels: labels.clone().fill_(10))
    with pytest.raises(DataError, match="labels up to 10"):
        Trainer(tiny, data)


def test_data_of_another_size_is_refused(tiny):
    data = load(tiny.data)
    less = dataclasses.replace(data, train=Split(data.train.images[:50], data.train.labels[:50]))
    with pytest.raises(DataError, match=r"has 50 training images .* expected 64"):
        Trainer(tiny, less)


def test_a_run_begun_on_other_data_does_not_go_on(runs, tiny):
    run = open_run(tiny)
    run.note(data={"fingerprint": "another"})
    with pytest.raises(DataError, match="began on data another"):
        train(run)
    assert not (run.path / "model").exists()


def test_a_changed_byte_of_a_model_is_refused(runs, tiny):
    run = open_run(tiny)
    train(run)
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

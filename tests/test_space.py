"""Pixels or latents: what a step learns from, and a training on latents that is killed and goes on as if it were not."""

import dataclasses
import shutil

import pytest
import torch
from faults.lives import deadly, said, same_weights, started, the_run, trained

from guidebook.config.params import load as load_params
from guidebook.config.pretrained import PretrainedMissing
from guidebook.data.images import from_uint8, load
from guidebook.diffusion.objective import Objective
from guidebook.models.autoencoder import autoencoder
from guidebook.models.space import Latents, Pixels, shape_of, space
from guidebook.runs.run import open_run, opened
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw
from guidebook.training.loop import train
from guidebook.training.step import prepared

N, BATCH = 24, 8
SAID = "encoding latents", "encoding captions"


@pytest.fixture(scope="module")
def faces():
    """18 steps on 24 faces of 8 × 8 pixels, with a checkpoint after every sixth."""
    return load_params("celeba", "demo").replace(
        data={"limit": N, "resolution": 8, "flips": True},
        text={"tokens": 12},
        model={"channels": [32, 32]},
        train={"batch": BATCH, "epochs": 6, "warmup": 16, "checkpoint_every": 2, "precision": "fp32"},
        sample={"steps": 2, "guidance": [1.0, 2.0], "batch": 4},
        evaluate={"samples": 30},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("space")
        patch.setenv("GUIDEBOOK_RUNS", str(folder))
        autoencoder.cache_clear()
        yield folder
        autoencoder.cache_clear()


@pytest.fixture
def pixels(faces):
    return faces.replace(model={"vae": None})


def some(params):
    """Images of a part of a batch, which of them are mirrored, and the rest that a step draws."""
    images = load(params.data).train.images[:6]
    mirrored, rng = torch.arange(6) % 2 == 1, torch.Generator().manual_seed(0)
    return images, mirrored, space(params).noise(6, rng)


def test_the_shape_is_that_of_what_is_learnt(folder, faces, pixels):
    assert isinstance(space(pixels), Pixels)
    assert isinstance(space(faces), Latents)
    assert space(pixels).shape == shape_of(pixels) == (3, 8, 8)
    assert space(faces).shape == shape_of(faces) == (4, 4, 4)
    sd = faces.replace(model={"vae": "stabilityai/sd-vae-ft-mse"}, data={"resolution": 256})
    assert shape_of(sd) == (4, 32, 32)


def test_pixels_are_learnt_as_they_are(pixels):
    images, mirrored, noise = some(pixels)
    assert noise.numel() == 0
    assert space(pixels).learnt(load(pixels.data)) is load(pixels.data)
    x0 = space(pixels).x0(images, mirrored, noise)
    expected = from_uint8(images, -1, 1)
    assert torch.equal(x0[~mirrored], expected[~mirrored])
    assert torch.equal(x0[mirrored], expected[mirrored].flip(-1))
    assert torch.equal(space(pixels).images(expected), images)
    still = pixels.replace(data={"flips": False})
    assert torch.equal(space(still).x0(images, mirrored, noise), expected)


def test_noise_for_pixels_draws_nothing(pixels):
    """So that recorded runs on pixels see the noise that they saw before there were latents."""
    rng = torch.Generator().manual_seed(3)
    before = rng.get_state()
    space(pixels).noise(5, rng)
    assert torch.equal(rng.get_state(), before)


# z = scale (μ + σ ε), of the image as it is or of the mirrored one
@pytest.mark.parametrize("flips", [True, False])
def test_latents_are_a_draw_of_each_images_posterior(folder, faces, flips):
    params = faces.replace(data={"flips": flips})
    data, within = load(params.data), space(params)
    learnt = within.learnt(data)
    assert learnt.train.images.shape == (N, 1 + flips, 8, 4, 4)
    assert torch.equal(learnt.train.labels, data.train.labels)
    assert dataclasses.replace(learnt, train=data.train) == data
    images, mirrored, noise = some(params)
    assert noise.shape == (6, 4, 4, 4)
    seen = torch.where((mirrored & flips)[:, None, None, None], images.flip(-1), images)
    given = within.autoencoder.network.encode(from_uint8(seen, -1, 1)).latent_dist
    expected = within.autoencoder.scale * (given.mean + given.std * noise)
    x0 = within.x0(learnt.train.images[:6], mirrored, noise)
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, expected, rtol=2e-3, atol=2e-3)
    assert (x0 - within.x0(learnt.train.images[:6], ~mirrored, noise)).abs().max() > 0.1 or not flips
    assert (x0 - within.x0(learnt.train.images[:6], mirrored, torch.zeros_like(noise))).abs().mean() > 0.01


def test_a_step_draws_anew_for_an_image_that_it_sees_again(folder, faces, monkeypatch):
    seen, losses = [], Objective.loss

    def spy(self, net, x0, *rest):
        seen.append(x0)
        return losses(self, net, x0, *rest)

    monkeypatch.setattr(Objective, "loss", spy)
    one = faces.replace(data={"flips": False}, train={"micro_batch": 3})
    trainer = prepared(one, load(one.data))
    for _ in range(9):
        trainer.step()
    trainer.feed.close()
    epochs = torch.cat(seen).view(3, N, 4, 4, 4)
    # Whatever its order, an epoch sees every image once: of its mean only what was drawn is new.
    mean = [epoch.mean(0) for epoch in epochs]
    given = load(one.data).train.images
    moments = trainer.space.autoencoder.encode(given)
    exact, std = moments[:, :4].mean(0), (moments[:, 4:].exp().mean(0) / N) ** 0.5
    scale = trainer.space.autoencoder.scale
    for found in mean:
        z = (found / scale - exact) / std
        assert z.abs().max() < 5
        assert z.std() == pytest.approx(1, abs=0.5)
    assert (mean[0] - mean[1]).abs().max() > 1e-3


def test_held_out_images_are_a_draw_of_their_posteriors(folder, faces):
    within, images, rng = space(faces), load(faces.data).test.images[:6], torch.Generator()
    x0 = within.encoded(images, rng.manual_seed(1))
    noise = within.noise(6, rng.manual_seed(1))
    given = within.autoencoder.network.encode(from_uint8(images, -1, 1)).latent_dist
    torch.testing.assert_close(x0, within.autoencoder.scale * (given.mean + given.std * noise), rtol=1e-3, atol=1e-3)
    assert (x0 - within.autoencoder.scale * given.mean).abs().mean() > 0.01


def test_what_is_sampled_in_latents_are_images(folder, faces):
    within = space(faces)
    moments = within.learnt(load(faces.data)).train.images[:5, 0]
    back = within.images(within.autoencoder.scale * moments[:, :4].float())
    assert back.shape == (5, 3, 8, 8)
    assert back.dtype == torch.uint8
    torch.testing.assert_close(back, within.autoencoder.decode(within.autoencoder.scale * moments[:, :4].float()))


# A training, killed


@pytest.fixture(scope="module")
def unbroken(faces, tmp_path_factory):
    runs = tmp_path_factory.mktemp("unbroken")
    assert trained(faces, runs)[0] == 0
    return the_run(faces, runs)


KILLED = [
    ("guidebook.models.small_vae.order", 9, "before"),  # while the autoencoder is trained
    ("guidebook.runs.artifact._write", 1, "after"),  # the latents
    ("guidebook.conditioning.source.encode", 2, "before"),  # the captions
    ("guidebook.training.step.Trainer.step", 3, "after"),
    ("guidebook.training.step.Trainer.step", 10, "before"),
]


def test_a_training_on_latents_that_is_killed_ends_as_one_that_is_not(faces, unbroken, tmp_path):
    for where, which, when in KILLED:
        process = started(faces, tmp_path, (deadly, where, which, when))
        process.join(120)
        assert process.exitcode == -9, (where, said(tmp_path, process))
    assert trained(faces, tmp_path)[0] == 0
    run = the_run(faces, tmp_path)
    assert [s["from"] for s in run.provenance()["stretches"]][-1] == 48
    assert same_weights(run, unbroken)
    assert run.stats()[-1]["nimg"] == 18 * BATCH
    for field in ("loss", "validation_loss"):
        assert [r.get(field) for r in run.stats()] == [r.get(field) for r in unbroken.stats()]
    assert sum("validation_loss" in r for r in run.stats()) == 3
    assert len({r["loss"] for r in run.stats()}) == len(run.stats()) >= 3
    assert {f.name for f in (tmp_path / "data").iterdir()} == {
        f.name for f in (unbroken.path.parents[1] / "data").iterdir()
    }


def test_a_model_of_latents_gives_images(unbroken, folder, monkeypatch):
    # Where the autoencoder that it learnt with lies
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(unbroken.path.parents[1]))
    autoencoder.cache_clear()
    run = opened(unbroken.path)
    sampler = Sampler(run, Draw.of(run.params, 2.0, 3, weights="ema-0.99"))
    index = torch.arange(3)
    *_, (_, x) = sampler.steps(index)
    assert x.shape == (3, 4, 4, 4)
    images = sampler.images(x)
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8
    *_, (_, alone) = sampler.steps(index[1:2])
    torch.testing.assert_close(alone[0], x[1], rtol=1e-3, atol=1e-3)
    assert sampler.labels(index) == load(unbroken.params.data).test.labels[:3].tolist()
    autoencoder.cache_clear()


def test_a_run_is_not_continued_in_the_latents_of_another_autoencoder(runs, shared):
    shared(runs, ["vaes"])
    run = open_run(load_params("celeba", "smoke"))
    train(run)
    known = run.provenance()["autoencoder"]
    assert known == space(run.params).autoencoder.name
    run.note(autoencoder=known[:-1] + "x")
    with pytest.raises(PretrainedMissing, match=f"began with the autoencoder .*x, now there is {known}"):
        Sampler(run, Draw.of(run.params, 1.0, 1))
    shutil.rmtree(run.path / "model")
    for folder in runs.glob("data/latents-*"):
        shutil.rmtree(folder)
    with pytest.raises(PretrainedMissing, match=f"began with the autoencoder .*x, now there is {known}"):
        train(run)
    assert not list(runs.glob("data/*latents-*"))  # refused before anything is encoded

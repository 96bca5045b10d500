"""A new backbone: one class, one row of the schema; it trains, resumes, samples, guides and is exported by what is there."""

from typing import Literal

import pytest
import torch
from backbones import Conv
from diffusers import DiffusionPipeline

from guidebook import models
from guidebook.config import params as P
from guidebook.config.networks import Model
from guidebook.export.pipeline import export
from guidebook.models.dit import DiT
from guidebook.models.mmdit import MMDiT
from guidebook.models.published import cost
from guidebook.models.ssm import SSM
from guidebook.runs.preemption import Preempted, Stop
from guidebook.runs.run import open_run
from guidebook.runtime.seeds import seed_of
from guidebook.sampling.draw import draw
from guidebook.training.loop import train
from guidebook.training.model import load_model

DIT = {"kind": "dit", "patch": 2, "hidden": 16, "layers": 1, "num_heads": 2, "conditioning": "adaln-zero"}
SPACES = {"kind": "ssm", "patch": 2, "hidden": 16, "layers": 1, "num_heads": 2, "state": 4}
STREAMS = {"kind": "mmdit", "patch": 2, "hidden": 64, "layers": 2, "num_heads": 1, "qk_norm": True}
EDM = {"kind": "edm", "sigma_data": 0.5, "mean": -1.2, "std": 1.2, "largest": 80.0}
HEUN = {"sampler": "heun", "spacing": "karras"}
EULER = {"sampler": "ddim", "spacing": "trailing"}
FLOW = {"kind": "flow", "mean": 0.0, "std": 1.0}


def macs_of_dit(d: int, places: int, tokens: int) -> int:
    """Multiply-adds of one block for a patch of 4 numbers: embedders, attention to the image and to the text, the rest."""
    embedders = places * 4 * d + (256 + d + 512 + d) * d + tokens * 512 * d
    attention = 4 * places * d**2 + 2 * places**2 * d + 2 * (places + tokens) * d**2 + 2 * places * tokens * d
    return embedders + attention + 8 * places * d**2 + (6 + 2) * d**2 + places * d * 4


@pytest.fixture
def params(tiny, monkeypatch):
    monkeypatch.setattr(Model, "kinds", dict(Model.kinds))  # a class of its own adds itself

    class OfConv(Model):
        kind: Literal["conv"] = "conv"
        hidden: int

    monkeypatch.setitem(models.backbones(), "conv", Conv)
    raw = tiny.model_dump(mode="json") | {"model": {"kind": "conv", "hidden": 8}}
    return P.check(raw, "the test")


@pytest.mark.parametrize(
    ("changes", "kind", "macs"),
    [
        ({}, Conv, 64 * (9 * 8 + 9 * 8) + (512 + 1) * 8),
        ({"model": DIT, "train": {"lr": 0.01}}, DiT, macs_of_dit(16, 4 * 4, 8)),
        ({"model": DIT, "train": {"lr": 0.01}, "objective": FLOW, "sample": EULER}, DiT, macs_of_dit(16, 4 * 4, 8)),
        ({"model": SPACES, "train": {"lr": 0.01}, "objective": EDM, "sample": HEUN}, SSM, None),
        ({"model": STREAMS, "train": {"lr": 0.01}, "objective": FLOW | {"shift": 3.0}, "sample": EULER}, MMDiT, None),
    ],
    ids=["new", "dit", "dit-flow", "ssm-edm", "mmdit-flow"],
)  # fmt: skip
def test_it_trains_resumes_samples_guides_and_is_exported(changes, kind, macs, runs, params, tmp_path, monkeypatch):
    params = params.replace(**changes)
    net = models.build(params)
    assert cost(params).parameters == sum(p.numel() for p in net.parameters())
    assert macs is None or cost(params).total == macs

    run = open_run(params)
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", lambda self: next(asked))
        with pytest.raises(Preempted, match="after 48 images"):
            train(run)
    train(run)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "unbroken"))
    train(open_run(params))
    for weights in ("raw", params.sample.weights):
        found, unbroken = load_model(run, weights), load_model(open_run(params), weights)
        assert type(found) is kind
        assert all(torch.equal(w, unbroken.state_dict()[k]) for k, w in found.state_dict().items())
        assert not any(torch.equal(w, net.state_dict()[k]) for k, w in found.state_dict().items())

    plain, guided = draw(run, 1.0, 10), draw(run, 5.0, 10)
    assert plain.images.shape == (10, 1, 8, 8)
    assert (plain.images != guided.images).any()

    pipe = DiffusionPipeline.from_pretrained(export(run), trust_remote_code=True)
    captions = [P.load("mnist", "smoke").data.caption.replace("{label}", str(i)) for i in range(3)]
    rngs = [torch.Generator().manual_seed(seed_of((params.sample.seed << 32) + i, "image")) for i in range(3)]
    images = pipe(captions, params.sample.steps, 5.0, rngs).images
    drawn = torch.stack([torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(1, 8, 8) for image in images])
    assert (drawn.int() - guided.images[:3].int()).abs().max() <= 1


def test_the_hook_runs_after_every_step(runs, params):
    from guidebook.training.step import prepared

    trainer = prepared(params)
    for _ in range(3):
        trainer.step()
    assert trainer.model.steps == 3


def test_a_pipeline_of_diffusers_takes_its_own_networks_alone(params):
    with pytest.raises(ValueError, match="no Conv"):
        models.build(params).stock()

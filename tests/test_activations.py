"""Gradient checkpointing: the same training in less memory, and the memory that is said of a step."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guidebook.conditioning.condition import Condition
from guidebook.config.params import load
from guidebook.models import build
from guidebook.models.activations import kept
from guidebook.training.estimate import memory
from guidebook.training.step import prepared

UNET = {"vae": None}
DIT = {
    "kind": "dit",
    "vae": None,
    "init": None,
    "patch": 2,
    "hidden": 64,
    "layers": 4,
    "num_heads": 2,
    "conditioning": "adaln-zero",
}
LAYERS = {"vae": None, "init": None, "patch": 2, "hidden": 64, "layers": 4, "num_heads": 1}
SPACES, STREAMS = LAYERS | {"kind": "ssm", "state": 8}, LAYERS | {"kind": "mmdit", "qk_norm": True}
N = 16  # images


class Live(TorchDispatchMode):
    """The most bytes that lived at once of what operations made while this context was open, besides the weights of a network."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.known, self.now, self.peak = weakref.WeakSet(w.untyped_storage() for w in net.parameters()), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and (storage := x.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def freed(self, n: int) -> None:
        self.now -= n


def of(model: dict, **train):
    """Params of a small network on 16 × 16 pixels, in fp32."""
    params = load("stable-diffusion", "pretraining")
    train = {"precision": "fp32", "clip_norm": None, "batch": N} | train
    return params.replace(model=model, train=train, data={"limit": 64})


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model", [UNET, DIT, SPACES, STREAMS], ids=["unet", "dit", "ssm", "mmdit"])
def test_activations_take_what_is_counted(model, checkpointing):
    params = of(model, gradient_checkpointing=checkpointing)
    net, counts = build(params).train(), kept(params)
    if checkpointing:
        net.enable_gradient_checkpointing()
    x, tokens = torch.randn(N, 3, 16, 16), torch.randn(N, params.text.tokens, 512)
    cond = Condition(tokens, pooled=torch.randn(N, 512) if params.model.pooled else None)
    with Live(net) as live:
        loss = net(x, torch.full((N,), 500), cond).square().mean()
        forward = live.now
        loss.backward()
    gradient = sum(4 * w.numel() for w in net.parameters())
    assert forward == pytest.approx(N * counts.saved, rel=0.02)
    assert live.peak == pytest.approx(max(N * sum(counts), N * counts.again + gradient), rel=0.15)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("model", [UNET, DIT, SPACES, STREAMS], ids=["unet", "dit", "ssm", "mmdit"])
def test_gradient_checkpointing_changes_no_weight(runs, model, clip):
    """Without a clip every weight is updated within the backward, too."""
    plain, less = (prepared(of(model, clip_norm=clip, gradient_checkpointing=c)) for c in (False, True))
    assert less.params.train.steps_in_backward == (clip is None)
    for trainer in (plain, less):
        for _ in range(3):
            trainer.step()
    begun = build(plain.params)
    for a, b in zip(plain.weights, less.weights, strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, first) for a, first in zip(plain.weights, begun.parameters(), strict=True))
    assert plain.params.training_key == less.params.training_key


def test_a_gradient_is_freed_within_the_backward(runs):
    """Of two images activations take little, and Adam's moments, which begin with the first step, as much as two gradients."""
    params = of(UNET, gradient_checkpointing=True, batch=2)
    less = prepared(params.replace(train={"ema": []}, sample={"weights": "raw"}))
    with Live(less.model) as live:
        less.step()
    gradient = sum(4 * w.numel() for w in less.weights)
    assert 2 * gradient < live.peak < 2.7 * gradient


@pytest.mark.parametrize("model", [UNET, DIT, SPACES, STREAMS], ids=["unet", "dit", "ssm", "mmdit"])
def test_in_half_precision_activations_take_less(model):
    """No more than in fp32, of which a half is the least: layer norms and what joins them stay in it."""
    full, half = (kept(of(model, precision=precision)).saved for precision in ("fp32", "bf16"))
    assert full / 2 < half < 0.9 * full


def test_the_published_transformers_fit_a_gpu_of_80_gb(runs):
    params = load("backbones", "paper")
    names = [network.name for network in params.evaluate.networks]
    sizes = {name: memory(params.replace(model=params.network(name)))[0] for name in names}
    assert max(*sizes.values(), memory(params)[0], memory(load("flows", "medium"))[0]) < 80e9
    assert sizes["dit-s"] < sizes["dit"] < sizes["dit-l"]


@pytest.mark.parametrize("profile", ["paper", "best"])
def test_stable_diffusion_fits_a_gpu_of_24_gb(runs, profile):
    """And would not, were every gradient kept and every activation: weights, Adam's moments and averages alone take 17 GB or more."""
    params = load("stable-diffusion", profile)
    less, more = (memory(params.replace(train={"gradient_checkpointing": c}))[0] for c in (True, False))
    assert 17e9 < less < 24e9 < more

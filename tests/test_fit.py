"""The loop of small networks: stopped at any step and continued, it ends as if it had never stopped."""

import contextlib
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guidebook.runs import fit as module
from guidebook.runs import preemption
from guidebook.runs.fit import fit
from guidebook.runs.preemption import Preempted

STEPS = 7
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.01),
    "fused": lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.9, 0.95), fused=True),
}
SCHEDULES = {
    "sgd": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / STEPS),
    "adamw": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
    "fused": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, STEPS, pct_start=0.1),
}


class After(preemption.Stop):
    """A stop that is asked for after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def asked(self):
        self.left -= 1
        return self.left == 0


def trained(file, monkeypatch, kind, form="contiguous", stops=()):
    """Weights, buffers and the last loss of a network with batch norm and dropout, stopped after so many steps of each life."""
    for stop in (*stops, None):
        asks = After(stop or 99)
        monkeypatch.setattr(preemption, "current", lambda asks=asks: asks)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 9, 3), nn.Dropout(0.3), nn.Flatten()
            )
        network = network.to(memory_format=FORMATS[form])
        optimizer, losses = OPTIMIZERS[kind](network.parameters()), []

        def loss(step, network=network, losses=losses):
            x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
            losses.append(F.mse_loss(network(x), torch.ones(8, 36)))
            return losses[-1]

        before = torch.get_rng_state()
        with pytest.raises(Preempted, match="stopped training the toy after") if stop else contextlib.nullcontext():
            fit(file, network, optimizer, SCHEDULES[kind](optimizer), STEPS, loss, "toy", clip=0.5)
        assert file.exists() == bool(stop)
        assert torch.equal(torch.get_rng_state(), before), "the random numbers of others were used"
    assert not network.training
    assert list(file.parent.iterdir()) == []
    return {**network.state_dict(), "loss": losses[-1].detach()}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_stopped_at_any_step_it_equals_an_unbroken_one(tmp_path, monkeypatch, kind, form):
    unbroken = trained(tmp_path / "state", monkeypatch, kind, form)
    for stops in [*((k,) for k in range(1, STEPS)), (1, 1, 1, 1, 1, 1), (3, 2)]:
        broken = trained(tmp_path / "state", monkeypatch, kind, form, stops)
        for name, x in unbroken.items():
            assert torch.equal(x, broken[name]), (stops, name)


@pytest.mark.parametrize("lives", [(1,), (4,), (2, 5), (3, 3, 6)])
def test_killed_it_continues_from_its_last_save(tmp_path, monkeypatch, lives):
    """One that is killed before it saved, or asked to stop, would begin anew in each life."""
    unbroken, seen = trained(tmp_path / "state", monkeypatch, "adamw"), []
    monkeypatch.setattr(module, "EVERY", -1)
    real = module.seed_of

    def killed(what, step):
        seen.append(step)
        if lives and step == lives[0]:
            raise KeyboardInterrupt
        return real(what, step)

    monkeypatch.setattr(module, "seed_of", killed)
    while lives:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "state", monkeypatch, "adamw")
        assert (tmp_path / "state").exists()
        lives = lives[1:]
    broken = trained(tmp_path / "state", monkeypatch, "adamw")
    assert all(torch.equal(x, broken[name]) for name, x in unbroken.items())
    assert len(seen) <= STEPS + 3


def test_asked_during_the_last_step_it_ends(tmp_path, monkeypatch):
    asks = After(STEPS)
    monkeypatch.setattr(preemption, "current", lambda: asks)
    network = nn.Linear(3, 1)
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    fit(tmp_path / "state", network, optimizer, SCHEDULES["sgd"](optimizer), STEPS, lambda _: network.weight.sum(), "")


@pytest.mark.parametrize("where", [0, 40, 400, -1, -300])
def test_a_state_whose_bytes_changed_is_not_used(tmp_path, monkeypatch, caplog, where):
    unbroken, file = trained(tmp_path / "state", monkeypatch, "adamw"), tmp_path / "state"
    written = module._save

    def flipped(*args):
        written(*args)
        raw = bytearray(file.read_bytes())
        raw[where] ^= 1
        file.write_bytes(raw)

    monkeypatch.setattr(module, "_save", flipped)
    with caplog.at_level(logging.WARNING):
        broken = trained(file, monkeypatch, "adamw", stops=(3,))
    assert "state is not what was written" in caplog.text
    assert torch.equal(broken["loss"], unbroken["loss"])

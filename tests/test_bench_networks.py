"""The bench of networks: pairs do the same work, and its report holds every ratio."""

import pytest
import torch

from bench import measuring, networks
from guidebook.config.params import load


def test_what_is_compared_is_as_large_and_every_ratio_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "FOLDER", tmp_path)
    monkeypatch.setattr(torch, "compile", lambda network: network)  # which takes a minute, and changes no name
    for name, value in {"BATCH": 2, "SIDE": 8, "SIDES": (2, 4), "LAYERS": 1}.items():
        monkeypatch.setattr(networks, name, value)
    shapes = {name: forward().shape for name, forward in networks.pairs().items()}
    assert {shapes[name][2:] for name in shapes} == {(8, 8)}
    for side in networks.SIDES:
        x = torch.randn(3, side**2, networks.HIDDEN)
        assert all(layer(x).shape == x.shape for layer in networks.joining(side).values())
    report = networks.networks(load("cifar10", "demo"), repeats=1)
    names = [row["name"] for row in report["rows"]]
    assert len(names) == len(set(names)) == 6 * 2 + 3 * 2
    assert [r["name"] for r in report["ratios"]] == [
        "dit, fp32", "dit, bf16", "dit compiled, fp32", "dit compiled, bf16",
        "mmdit, fp32", "mmdit, bf16", "mmdit compiled, fp32", "mmdit compiled, bf16", "convolution, 4 tokens", "attention, 4 tokens", "state space, 4 tokens",
    ]  # fmt: skip
    assert all(r["value"] == pytest.approx(r["low"]) == pytest.approx(r["high"]) for r in report["ratios"])

"""What a network reads in images is read once, and never taken from a file that changed."""

import logging

import pytest
import torch

from guidebook.metrics import networks as module
from guidebook.metrics.networks import Network
from guidebook.runs import preemption
from guidebook.runs.preemption import Preempted, stopping
from guidebook.runs.run import open_run


class Counting(Network):
    """Two columns of a set, and the number of images it was shown."""

    batch, name = 4, "some/network"
    gives = (("features", (3,), "float32"), ("classes", (), "int64"))

    def __init__(self):
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        x = images.float().flatten(1)
        return {"features": x[:, :3], "classes": x.argmax(1)}


@pytest.fixture
def images():
    return torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("part", [3, 500])
def test_a_set_is_read_once_whatever_is_read_at_a_time(runs, images, part, monkeypatch):
    monkeypatch.setattr(module, "PART", part)
    network, other = Counting(), Counting()
    first, second = network.features(images), other.features(images.clone())
    assert (network.seen, other.seen) == (10, 0)
    assert set(first) == {"features", "classes"}
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first["features"], images.flatten(1)[:, :3].float())
    assert torch.equal(first["classes"], images.flatten(1).float().argmax(1))
    assert all(folder.name.startswith("some-network-") for folder in (runs / "features").iterdir())


def test_other_pixels_and_other_networks_are_read_anew(runs, images):
    network = Counting()
    network.features(images)
    images[3, 0, 0, 0] += 1
    network.features(images)
    network.features(images.reshape(10, 1, 2, 8))
    assert network.seen == 30
    network.name = "another"
    network.features(images)
    assert network.seen == 40


def test_a_flipped_byte_is_seen_and_the_set_is_read_again(runs, images, caplog):
    network = Counting()
    first = network.features(images)
    (file,) = (runs / "features").glob("*/features.npy")
    raw, expected = bytearray(file.read_bytes()), first["features"].clone()
    raw[-1] ^= 1
    file.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        again = network.features(images)
    assert network.seen == 20
    assert "features.npy is not what was written" in caplog.text
    torch.testing.assert_close(again["features"], expected)


def test_stopped_between_parts_it_goes_on_there(runs, images, tiny, monkeypatch):
    monkeypatch.setattr(module, "PART", 4)
    network, run = Counting(), open_run(tiny)
    with stopping(run):
        preemption.current().signalled = True
        with pytest.raises(Preempted):
            network.features(images)
    assert network.seen == 4
    network.features(images)
    assert network.seen == 10

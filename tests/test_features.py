"""The cache of features: one forward pass for each set and network, and bytes that prove themselves."""

import logging

import pytest
import torch

from guidebook.metrics import features as module
from guidebook.metrics.features import features, path_of
from guidebook.metrics.networks import Network


class Counting(Network):
    """Two columns of a set, and the number of images it was shown."""

    batch, name = 4, "some/network"

    def __init__(self):
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        x = images.float().flatten(1)
        return {"features": x[:, :3], "classes": x.argmax(1)}


@pytest.fixture
def images():
    return torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_set_is_read_once(runs, images):
    network = Counting()
    first, second = (features(images, network) for _ in range(2))
    assert network.seen == 10
    assert set(first) == {"features", "classes"}
    torch.testing.assert_close(first, second)
    assert first["features"].dtype == torch.float32
    torch.testing.assert_close(first["features"], images.flatten(1)[:, :3].float())


def test_another_process_finds_it(runs, images):
    features(images, Counting())
    other = Counting()
    features(images.clone(), other)
    assert other.seen == 0
    (file,) = (runs / "features").iterdir()
    assert file == path_of(images, other)
    assert file.name.startswith("some-network-")


def test_other_pixels_and_other_networks_are_read_anew(runs, images):
    network = Counting()
    features(images, network)
    images[3, 0, 0, 0] += 1
    features(images, network)
    features(images.reshape(10, 1, 2, 8), network)
    assert network.seen == 30
    network.name = "another"
    features(images, network)
    assert network.seen == 40


@pytest.mark.parametrize("where", [0, 9, 60, -1, -40], ids=["length", "header", "names", "last", "middle"])
def test_flipped_bytes_are_seen_and_the_set_is_read_again(runs, images, caplog, where):
    network = Counting()
    first, file = features(images, network), path_of(images, network)
    whole = bytearray(file.read_bytes())
    whole[where] ^= 1
    file.write_bytes(whole)
    with caplog.at_level(logging.WARNING):
        again = features(images, network)
    assert network.seen == 20
    assert f"{file.name} is not what was written" in caplog.text
    torch.testing.assert_close(again, first)
    features(images, network)
    assert network.seen == 20


@pytest.mark.parametrize("left", [0, 5, -20])
def test_a_file_cut_short_is_read_again(runs, images, left):
    network = Counting()
    features(images, network)
    file = path_of(images, network)
    file.write_bytes(file.read_bytes()[:left])
    features(images, network)
    assert network.seen == 20


def test_a_full_disk_leaves_nothing_behind(runs, images, monkeypatch):
    def full(found, path, _):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        features(images, Counting())
    assert list((runs / "features").iterdir()) == []

"""Latents in the cache: what the encoder says, and draws that are as good as encoding in every step."""

import os
import signal

import pytest
import torch
from diffusers import AutoencoderKL
from faults.lives import PROCESSES, die

from guidebook.models import latents as module
from guidebook.models.autoencoder import Autoencoder, posterior
from guidebook.models.latents import encoded, latents
from guidebook.models.small_vae import build
from guidebook.runs.artifact import PARTS
from guidebook.runs.manifest import intact

SIDE, N = 8, 23


def network(seed: int = 0) -> Autoencoder:
    """An embedded autoencoder whose weights nobody trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(build(SIDE).eval().requires_grad_(False), f"random-{seed}")


def pictures(n: int = N, side: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vae():
    return network()


@pytest.fixture
def parts_of_5(monkeypatch):
    monkeypatch.setattr(module, "PART", 5 * SIDE**2)


def bytes_of(folder) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix in (".npy", ".json")}


def test_an_image_of_256_pixels_takes_16384_bytes(runs):
    # The published autoencoder's shapes: 8 × 8 pixels a point, 4 channels
    small = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
        block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
    )  # fmt: skip
    vae = Autoencoder(small.eval().requires_grad_(False), "wide")
    found = latents(vae, pictures(2, 256), "x", False)
    assert found.shape == (2, 1, 8, 32, 32)
    assert found.dtype == torch.float16
    assert found[0].nbytes == 16_384
    (file,) = runs.glob("data/latents-*/moments.npy")
    assert file.stat().st_size - 128 == 2 * 16_384


def test_moments_are_the_encoders_within_half_precision(runs, vae, parts_of_5):
    images = pictures()
    found = latents(vae, images, "x", False)
    assert found.shape == (N, 1, 8, SIDE // 2, SIDE // 2)
    exact = vae.encode(images)
    # Half of the last of 11 bits; a convolution's sums depend a little on the batch.
    assert ((found[:, 0] - exact).abs() <= 2**-11 * exact.abs() * 1.05 + 1e-5).all()
    assert exact.abs().mean() > 0.05


def test_with_flips_the_second_set_is_that_of_the_mirrored_images(runs, vae, parts_of_5):
    images = pictures()
    both = latents(vae, images, "x", True)
    assert both.shape == (N, 2, 8, SIDE // 2, SIDE // 2)
    assert torch.equal(both[:, :1], latents(vae, images, "x", False))
    assert torch.equal(both[:, 1:], latents(vae, images.flip(-1), "mirrored", False))
    # An encoder that is not symmetric: the mirrored image's latents are not the latents mirrored.
    assert (both[:, 1] - both[:, 0].flip(-1)).abs().max() > 0.05


def test_draws_from_the_cache_are_distributed_as_encoding_in_each_step(runs, vae):
    images, draws, scale = pictures(2), 6000, 0.7
    moments = latents(vae, images, "x", False)[:, 0]
    given = vae.network.encode(images.float() / 127.5 - 1).latent_dist
    for i in range(2):
        rng = torch.Generator().manual_seed(i)
        eps = torch.randn(draws, *moments.shape[1:2], 4, 4, generator=rng)[:, :4]
        drawn = posterior(moments[i : i + 1].expand(draws, -1, -1, -1), eps, scale)
        fresh = torch.stack([given.sample(generator=rng)[i] for _ in range(draws)]) * scale
        mean, std = given.mean[i] * scale, given.std[i] * scale
        assert mean.abs().mean() > 0.05
        for found in (drawn, fresh):
            # 64 elements, five standard errors each: 0.6 standard deviations of an element would be 46 of them.
            assert ((found.mean(0) - mean).abs() < 5 * std / draws**0.5).all()
            assert ((found.var(0) / std**2 - 1).abs() < 5 * (2 / draws) ** 0.5).all()
        flat = (drawn - mean).flatten(1) / std.flatten()
        together = flat.T.corrcoef() - torch.eye(64)
        assert together.abs().max() < 6 / draws**0.5  # each element has noise of its own


def test_other_weights_images_sizes_and_flips_are_kept_apart(runs, vae):
    images = pictures(3)
    latents(vae, images, "x", False)
    for autoencoder, seen, fingerprint, flips in (
        (network(1), images, "x", False), (vae, images, "y", False), (vae, pictures(3, 16), "x", False),
        (vae, images, "x", True),
    ):  # fmt: skip
        before = len(list(runs.glob("data/latents-*")))
        latents(autoencoder, seen, fingerprint, flips)
        assert len(list(runs.glob("data/latents-*"))) == before + 1


def test_what_was_encoded_is_not_encoded_again(runs, vae, monkeypatch):
    first = latents(vae, pictures(), "x", True)
    monkeypatch.setattr(Autoencoder, "encode", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(latents(vae, pictures(), "x", True), first)


def _encodes(runs: str, killed_at: int | None, rank: int | None) -> None:
    """Encodes in parts of 5, alone or as one of two that talk, and is killed at the part of this number."""
    os.environ["GUIDEBOOK_RUNS"] = runs
    torch.set_num_threads(1)
    if rank is not None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "GUIDEBOOK_STORE": f"file://{runs}/store"}
    module.PART, seen, real = 5 * SIDE**2, [], Autoencoder.encode

    def encode(self, images):
        seen.append(len(images))
        if len(seen) - 1 == killed_at:
            die()
        return real(self, images)

    Autoencoder.encode = encode
    assert latents(network(), pictures(), "x", False).shape[0] == N


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_killed_and_resumed_or_shared_the_bytes_are_those_of_one(
    runs, vae, tmp_path, monkeypatch, parts_of_5, one_thread
):
    latents(vae, pictures(), "x", False)
    (expected,) = runs.glob("data/latents-*")
    killed, talking, shared = (tmp_path / name for name in ("killed", "talking", "shared"))
    lives = [PROCESSES.Process(target=_encodes, args=(str(killed), 2, None))]
    lives += [PROCESSES.Process(target=_encodes, args=(str(talking), None, rank)) for rank in range(2)]
    for folder in (killed, talking):
        folder.mkdir()
    for life in lives:
        life.start()
    for life in lives:
        life.join(60)
        life.kill()
    assert [life.exitcode for life in lives] == [-signal.SIGKILL, 0, 0]

    assert len(list(killed.glob(f"data/.latents-*/{PARTS}/*.json"))) == 2
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(killed))
    seen, real = [], Autoencoder.encode
    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "encode", lambda self, x: seen.append(len(x)) or real(self, x))
        latents(vae, pictures(), "x", False)
    assert seen == [5, 5, 3]  # two parts were there

    monkeypatch.setenv("GUIDEBOOK_RUNS", str(shared))
    assert not intact(encoded(vae, pictures(), "x", False, share=(1, 2)))
    assert intact(encoded(vae, pictures(), "x", False, share=(0, 2)))
    for folder in (killed, talking, shared):
        assert bytes_of(folder / "data" / expected.name) == bytes_of(expected)

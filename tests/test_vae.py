"""Autoencoders: what goes in comes out, draws of the posterior, weights that are found or refused."""

import pytest
import torch
from diffusers import AutoencoderKL

from guidebook.config.params import ParamsError
from guidebook.config.params import load as load_params
from guidebook.config.pretrained import (
    EMBEDDED,
    PRETRAINED,
    SD_VAE,
    PretrainedMissing,
    available,
    latent_shape,
    resolve,
)
from guidebook.config.schema import Data
from guidebook.data.images import from_uint8, load
from guidebook.models import small_vae
from guidebook.models.autoencoder import (
    Autoencoder,
    autoencoder,
    posterior,
)

DATA = Data(name="faces", resolution=8, range=(-1.0, 1.0), caption=None, limit=200, flips=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("vae")
        patch.setenv("GUIDEBOOK_RUNS", str(folder))
        autoencoder.cache_clear()
        yield folder
        autoencoder.cache_clear()


@pytest.fixture(scope="module")
def vae(folder) -> Autoencoder:
    return autoencoder(EMBEDDED, DATA)


@pytest.fixture(scope="module")
def images():
    return load(DATA).train.images


def test_shapes_there_and_back(vae, images):
    moments = vae.encode(images[:5])
    assert moments.shape == (5, 8, 4, 4)
    assert moments.dtype == torch.float32
    assert vae.factor == latent_shape(EMBEDDED)[1] == 2
    back = vae.decode(torch.zeros(3, 4, 4, 4))
    assert back.shape == (3, 3, 8, 8)
    assert back.dtype == torch.uint8


def test_encoding_and_decoding_are_the_networks(vae, images):
    given = vae.network.encode(from_uint8(images[:6], -1, 1)).latent_dist
    mean, logvar = vae.encode(images[:6]).chunk(2, 1)
    torch.testing.assert_close(mean, given.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logvar, given.logvar, rtol=1e-4, atol=1e-4)
    expected = ((vae.network.decode(mean).sample + 1) * 127.5).round().clamp(0, 255)
    assert (vae.decode(vae.scale * mean).float() - expected).abs().max() <= 1


def test_an_image_does_not_depend_on_those_beside_it(vae, images, monkeypatch):
    whole, latents = vae.encode(images[:7]), torch.randn(7, 4, 4, 4)
    decoded = vae.decode(latents)
    monkeypatch.setattr("guidebook.models.autoencoder.PART", 3 * 64)  # three images at a time
    torch.testing.assert_close(vae.encode(images[:7]), whole, rtol=1e-4, atol=1e-5)
    assert (vae.decode(latents).int() - decoded.int()).abs().max() <= 1


def test_what_it_learnt_gives_images_back(vae, images):
    seen = load(DATA).test.images
    mean, _ = vae.encode(seen).chunk(2, 1)
    off = (vae.decode(vae.scale * mean).float() - seen.float()).abs().mean()
    flat = (seen.float() - seen.float().mean((2, 3), keepdim=True)).abs().mean()  # what each image's mean colours reach
    assert off < 0.95 * flat  # after 50 steps


# z = scale (μ + σ ε)
def test_a_posterior_is_its_closed_form():
    rng = torch.Generator().manual_seed(0)
    mean, std, eps = (torch.randn(5, 4, 2, 2, generator=rng, dtype=torch.float64) for _ in range(3))
    moments = torch.cat([mean, 2 * std.abs().log()], 1)
    torch.testing.assert_close(posterior(moments, eps, 0.18), 0.18 * (mean + std.abs() * eps))
    assert torch.equal(posterior(moments, torch.zeros_like(eps), 0.5), 0.5 * mean)
    assert posterior(moments.half(), eps.float(), 1.0).dtype == torch.float32


def test_scaled_latents_have_variance_1(vae, images):
    moments = vae.encode(images)
    eps = torch.randn(50, *moments[:, :4].shape, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([posterior(moments, noise, vae.scale) for noise in eps])
    assert drawn.var() == pytest.approx(1, rel=0.01)
    assert abs(vae.scale - 1) > 0.1  # so that a scale that is left out is noticed
    assert moments[:, :4].var() > 0.5 * moments[:, 4:].exp().mean()  # most of it is said of the image, not noise


def place_of(vae) -> str:
    """The name of its folder."""
    return vae.name.partition("@")[0]


def test_it_is_kept_in_diffusers_format_and_trained_once(vae, folder, images, monkeypatch):
    (place,) = folder.glob("vaes/*")
    assert place.name == place_of(vae)
    assert len(vae.name.partition("@")[2]) == 8  # of its weights
    same = AutoencoderKL.from_pretrained(place, use_safetensors=True)
    assert same.config.scaling_factor == vae.scale
    state = vae.network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in same.state_dict().items())
    monkeypatch.setattr(small_vae, "build", lambda *_: pytest.fail("trained again"))
    autoencoder.cache_clear()
    again = autoencoder(EMBEDDED, DATA)
    assert (again.name, again.scale) == (vae.name, vae.scale)
    assert torch.equal(again.encode(images[:4]), vae.encode(images[:4]))


def test_training_is_a_function_of_its_data_and_leaves_random_numbers_alone(vae, folder, tmp_path, monkeypatch):
    state = torch.get_rng_state()
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path))
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again = small_vae.trained(load(DATA), DATA)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.set_rng_state(state)
    assert again.name == place_of(vae)
    file = "diffusion_pytorch_model.safetensors"
    assert (again / file).read_bytes() == (folder / "vaes" / place_of(vae) / file).read_bytes()
    monkeypatch.setattr(small_vae, "STEPS", {8: 1})
    other = small_vae.trained(load(DATA.model_copy(update={"limit": 100})), DATA)
    assert other.name != place_of(vae)


def test_changed_weights_are_never_read_but_trained_anew(vae, folder, caplog):
    file = folder / "vaes" / place_of(vae) / "diffusion_pytorch_model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    autoencoder.cache_clear()
    assert autoencoder(EMBEDDED, DATA).name == vae.name
    assert file.read_bytes() == raw
    assert "is not what was written" in caplog.text


def test_weights_in_the_cache_are_found_at_the_pinned_revision(vae, folder, tmp_path, monkeypatch):
    """A folder as the hub's client leaves it, with another network's weights."""
    place = tmp_path / f"models--{SD_VAE.replace('/', '--')}" / "snapshots" / PRETRAINED[SD_VAE].revision
    place.mkdir(parents=True)
    for name in PRETRAINED[SD_VAE].files:
        (place / name).symlink_to(folder / "vaes" / place_of(vae) / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    autoencoder.cache_clear()
    assert available(SD_VAE)
    assert resolve(SD_VAE) == SD_VAE
    found = autoencoder(SD_VAE, DATA)
    assert found.name == f"{SD_VAE}@{PRETRAINED[SD_VAE].revision[:8]}"
    assert found.scale == vae.scale
    (place / "config.json").unlink()
    assert not available(SD_VAE)
    autoencoder.cache_clear()
    with pytest.raises(PretrainedMissing, match=f"^autoencoder {SD_VAE} is not in the cache"):
        autoencoder(SD_VAE, DATA)


def test_params_that_an_autoencoder_cannot_take_are_refused():
    demo = load_params("celeba", "demo")
    for change in ({"data": {"range": [0.0, 1.0]}}, {"data": {"resolution": 33}}):
        with pytest.raises(ParamsError, match=r"model\.vae = embedded takes colour images"):
            demo.replace(**change)


@pytest.mark.parametrize(("name", "channels"), [("embedded-8", 8), ("embedded-16", 16)])
def test_a_stand_in_of_more_channels_is_another_whose_latents_have_as_many(folder, vae, images, name, channels):
    other = autoencoder(name, DATA)
    assert other.encode(images[:5]).shape == (5, 2 * channels, 4, 4)
    assert other.decode(torch.zeros(3, channels, 4, 4)).shape == (3, 3, 8, 8)
    assert latent_shape(name) == (channels, 2)
    assert other.name != vae.name
    assert (available(name), resolve(name)) == (True, name)

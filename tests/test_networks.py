"""The networks behind the metrics: real architectures with random weights, held against the libraries that define them."""

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from guidebook.config.pretrained import CLIP, PRETRAINED
from guidebook.metrics import networks
from guidebook.metrics.frechet import frechet_to, gaussian
from guidebook.metrics.judge import Judge, recipes
from guidebook.metrics.networks import Clip, Inception, Lpips
from guidebook.metrics.untrained import Untrained
from guidebook.metrics.weights import Weights, WeightsMissing


def pictures(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8))


def scrambled(net: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that keep the size of what passes through, by name."""
    rng, state = torch.Generator().manual_seed(seed), net.state_dict()
    for w in state.values():
        if w.ndim > 1:
            w.normal_(0, (2 / w[0].numel()) ** 0.5, generator=rng)
    return state


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "data" / "weights"


def published(state: dict, folder, owner, name: str, monkeypatch) -> None:
    """Puts weights where those of `owner.name` are looked for, as if their authors had published these bytes."""
    weights = getattr(owner, name)
    torch.save(state, folder / weights.file)
    sha = hashlib.sha256((folder / weights.file).read_bytes()).hexdigest()
    monkeypatch.setattr(owner, name, Weights(weights.file, sha[:8], weights.source))


@pytest.fixture(scope="module")
def inception_state():
    from pytorch_fid import inception as fid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        return scrambled(fid.fid_inception_v3())


@pytest.fixture
def inception(inception_state, nothing_at_hand, monkeypatch):
    published(inception_state, nothing_at_hand, networks, "INCEPTION", monkeypatch)
    monkeypatch.setattr(Inception, "weights", (networks.INCEPTION,))
    return Inception()


@pytest.fixture
def theirs(inception_state, monkeypatch):
    """pytorch-fid's own network with the same weights."""
    from pytorch_fid import inception as fid

    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: inception_state)
    return fid.InceptionV3([3]).eval()


def test_inceptions_features_are_pytorch_fids(inception, theirs):
    images = pictures(4)
    with torch.no_grad():
        expected = theirs(images.float().div(255))[0].flatten(1)
    found = inception.read(images)["features"]
    assert found.shape == (4, 2048)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_fid_is_pytorch_fids_from_png_files(inception, theirs, tmp_path, monkeypatch):
    """From images to number by their code, through files. Of four features: with all 2048 their matrix root needs as many images."""
    from pytorch_fid import fid_score

    monkeypatch.setattr(fid_score, "tqdm", lambda x: x)
    sets, moments = [pictures(6), pictures(7, seed=1) // 2], []
    for i, images in enumerate(sets):
        files = []
        for j, image in enumerate(images):
            files.append(tmp_path / f"{i}-{j}.png")
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[-1])
        read = fid_score.get_activations(files, theirs, batch_size=4, num_workers=0)
        read = read[:, :4]
        moments += [read.mean(0), np.cov(read, rowvar=False)]
    mine, other = (inception.read(images)["features"][:, :4] for images in sets)
    ours = frechet_to(mine, gaussian(other))[0]
    assert ours > 0.01
    assert ours == pytest.approx(fid_score.calculate_frechet_distance(*moments), abs=1e-3)


def test_the_logits_are_those_of_the_last_layer_without_its_bias(inception, inception_state):
    read = inception.read(pictures(2))
    assert read["logits"].shape == (2, 1008)
    expected = F.linear(read["features"], inception_state["fc.weight"])
    torch.testing.assert_close(read["logits"], expected)


def test_a_grey_image_is_one_of_three_equal_channels(inception):
    grey = pictures(1, channels=1)
    torch.testing.assert_close(inception.read(grey), inception.read(grey.expand(-1, 3, -1, -1)))


def test_the_name_says_which_weights(inception):
    assert inception.why_absent() is None
    assert inception.name == "inception-6726825d"
    assert Lpips.name == "lpips-alexnet-7be5be79-df73285e"


@pytest.fixture
def weights(nothing_at_hand):
    """A small file as it was published: where it lies, and what is known of it."""
    torch.save({"w": torch.arange(3.0)}, nothing_at_hand / "net-12345678.pth")
    sha = hashlib.sha256((nothing_at_hand / "net-12345678.pth").read_bytes()).hexdigest()
    return Weights("net-12345678.pth", sha[:8], "https://example.org")


def test_published_bytes_are_read(weights):
    assert weights.why_absent() is None
    assert weights.read()["w"].tolist() == [0, 1, 2]
    assert weights.id == weights.sha256


def test_other_bytes_are_never_opened(weights, nothing_at_hand, monkeypatch):
    file = nothing_at_hand / weights.file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    assert weights.why_absent().startswith(f"{file} is not the published file: its sha256 begins with")
    assert weights.why_absent().endswith("; put that of https://example.org there")
    with pytest.raises(WeightsMissing, match="not the published file"):
        weights.read()


def test_a_pickle_that_runs_code_is_refused_even_with_the_right_hash(nothing_at_hand):
    import pickle

    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("it ran",))

    file = nothing_at_hand / "bad.pth"
    torch.save({"w": Bad()}, file)
    known = Weights("bad.pth", hashlib.sha256(file.read_bytes()).hexdigest(), "https://example.org")
    with pytest.raises(pickle.UnpicklingError):
        known.read()


def test_torch_hubs_cache_is_looked_in_too(weights, nothing_at_hand, tmp_path):
    moved = tmp_path / "torch" / "hub" / "checkpoints" / weights.file
    (nothing_at_hand / weights.file).rename(moved)
    assert weights.path() == moved
    assert weights.why_absent() is None


@pytest.mark.parametrize(
    ("network", "file"), [(Inception, networks.INCEPTION.file), (Clip, CLIP), (Lpips, networks.ALEXNET.file)]
)
def test_a_network_that_is_not_at_hand_says_which_file_and_reads_nothing(network, file):
    absent = network()
    assert file in absent.why_absent()
    assert "\n" not in absent.why_absent()
    with pytest.raises(WeightsMissing, match=r"not available|not in the hub's cache"):
        absent.read(pictures(1))


def test_whatever_reads_images_reads_them_in_fp32_that_is_fp32():
    seen = []

    class Seen(torch.nn.Linear):
        def forward(self, x):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
            return super().forward(x.flatten(1).float())

    class Plain(networks.Network):
        def forward(self, images):
            return {"features": own(images)}

    class Two(torch.nn.Module):
        own = property(lambda _: own)

        def forward(self, x):
            return own(x), own(x)

    own, images = Seen(12, 10), pictures(2, 2)
    judge = Judge(Two(), "", recipes()["digits"]["cpu"], torch.zeros(10), torch.ones(10))
    untrained = Untrained(1, 10, 0, heads=1)
    untrained.network = own
    for read in (Plain().read, untrained.read, judge.read):
        seen.clear()
        read(images)
        assert set(seen) == {(False, True)}, read
    assert torch.backends.cudnn.allow_tf32, "what others compute is left as it was"


@pytest.fixture
def lpips(nothing_at_hand, monkeypatch):
    from torchvision.models import alexnet

    state = {f"features.{k}": w for k, w in scrambled(alexnet().features).items()}
    published(state, nothing_at_hand, networks, "ALEXNET", monkeypatch)
    monkeypatch.setattr(Lpips, "weights", (networks.ALEXNET, networks.LINEAR))
    return Lpips(), state


@pytest.mark.parametrize("size", [64, 96])
def test_squared_distances_of_lpips_features_are_torchmetrics_lpips(lpips, size):
    from torchmetrics.functional.image.lpips import _LPIPS

    network, state = lpips
    theirs = _LPIPS(pretrained=False, net="alex", pnet_rand=True, eval_mode=True)
    own = [m for i in range(1, 6) for m in getattr(theirs.net, f"slice{i}")]
    convolutions = [m for m in own if isinstance(m, torch.nn.Conv2d)]
    for m, index in zip(convolutions, (0, 3, 6, 8, 10), strict=True):
        m.load_state_dict({k: state[f"features.{index}.{k}"] for k in ("weight", "bias")})
    theirs.load_state_dict(networks.LINEAR.read(), strict=False)
    a, b = pictures(2, size), pictures(2, size, seed=1) // 3
    with torch.no_grad():
        expected = theirs(a / 127.5 - 1, b / 127.5 - 1).flatten()
    found = (network.read(a)["features"] - network.read(b)["features"]).square().sum(1)
    assert expected.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_small_images_are_enlarged_for_lpips(lpips):
    small = pictures(1, 8, channels=1)
    large = F.interpolate(small.float(), (64, 64), mode="bilinear")
    found = lpips[0].read(small)["features"]
    torch.testing.assert_close(found, lpips[0].forward(large)["features"])


@pytest.fixture
def clip(tmp_path):
    """CLIP's architecture, small, in the hub's cache as the hub lays it out."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path / "hub" / f"models--{CLIP.replace('/', '--')}" / "snapshots" / PRETRAINED[CLIP].revision
    folder.mkdir(parents=True)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 64, "patch_size": 16}, projection_dim=16)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz0123456789" for end in ("", "</w>")),
    ]
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", 1), ("<|startoftext|>", 0), add_prefix_space=False, trim_offsets=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return model


def test_clip_sees_what_transformers_own_processor_shows_it(clip):
    from transformers import CLIPImageProcessor

    assert Clip().why_absent() is None
    images = pictures(3, 40)
    images[:, :, :20] = 200
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    shown = processor([Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images], return_tensors="pt")
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model(**shown).pooler_output)
    found = Clip().read(images)["features"]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found, F.normalize(expected, dim=1), atol=2e-3, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.01


def test_captions_are_read_alike_alone_and_together(clip):
    together = Clip().captions(["a digit 7", "a much longer caption 3", "a digit 7"])
    assert together.shape == (3, 16)
    torch.testing.assert_close(together[0], together[2])
    torch.testing.assert_close(together[:1], Clip().captions(["a digit 7"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert (together[0] - together[1]).abs().max() > 0.01

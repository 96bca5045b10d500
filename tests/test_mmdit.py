"""MM-DiT: diffusers' network at equal weights, the published counts, two streams that read one another, and attention with QK-norm."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel

from guidebook.conditioning.condition import Condition
from guidebook.config import params as P
from guidebook.config.networks import TABLE
from guidebook.models import build, load
from guidebook.models.dit import positions
from guidebook.models.mmdit import HEAD, MMDiT, Stream
from guidebook.models.published import cost
from guidebook.models.ssm import SSM

# Depth, QK-norm, and the parameters of Stable Diffusion 3's network of that depth
PUBLISHED = [
    (15, False, 496_066_624), (18, False, 856_159_552), (21, False, 1_358_950_720), (24, False, 2_028_328_000),
    (30, False, 3_962_392_384), (38, False, 8_056_617_792), (38, True, 8_056_627_520),
]  # fmt: skip
WIDTH, POOLED, HIDDEN = 12, 10, 2 * HEAD


def tiny(qk_norm: bool = True, layers: int = 2) -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(3, 8, 2, HIDDEN, layers, qk_norm, WIDTH, POOLED, 24)


def filled(net: MMDiT) -> MMDiT:
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.1)
    return net.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, Condition]:
    rng = torch.Generator().manual_seed(1)
    cond = Condition(torch.randn(4, 5, WIDTH, generator=rng), pooled=torch.randn(4, POOLED, generator=rng))
    return torch.randn(4, 3, 8, 8, generator=rng), torch.tensor([0.25, 7, 500, 998.7]), cond


def stock(net: MMDiT) -> SD3Transformer2DModel:
    """diffusers' network with the same weights. Its table of positions is that of an image of a third of the places across; it has
    cosines before sines, and in the last layers scales before shifts."""
    of = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=3, out_channels=3, num_layers=len(net.blocks), num_attention_heads=2,
        attention_head_dim=HEAD, joint_attention_dim=WIDTH, caption_projection_dim=HIDDEN, pooled_projection_dim=POOLED,
        pos_embed_max_size=24, qk_norm="rms_norm" if net.config.qk_norm else None,
    ).eval()  # fmt: skip
    of.time_text_embed.time_proj.flip_sin_to_cos = False
    weights = {
        "pos_embed.proj": net.patches, "context_embedder": net.tokens,
        "time_text_embed.timestep_embedder.linear_1": net.time[0], "time_text_embed.timestep_embedder.linear_2": net.time[2],
        "time_text_embed.text_embedder.linear_1": net.pooled[0], "time_text_embed.text_embedder.linear_2": net.pooled[2],
    }  # fmt: skip
    for i, block in enumerate(net.blocks):
        at, last = of.transformer_blocks[i], i == len(net.blocks) - 1
        for stream, norm, projected, ff, out, normed in (
            (block.image, "norm1", ("to_q", "to_k", "to_v"), "ff", "to_out.0", ("norm_q", "norm_k")),
            (block.text, "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "ff_context", "to_add_out",
             ("norm_added_q", "norm_added_k")),
        ):  # fmt: skip
            for name in ("weight", "bias"):
                for to, part in zip(projected, getattr(stream.qkv, name).data.chunk(3), strict=True):
                    getattr(at.attn.get_submodule(to), name).data = part
                norms = [getattr(n.modulation, name).data for n in (stream.norm1, stream.norm2) if n is not None]
                both = norms[0].chunk(2)[::-1] if len(norms) == 1 else norms
                getattr(at.get_submodule(norm).linear, name).data = torch.cat(list(both))
            if net.config.qk_norm:
                for to, mine in zip(normed, (stream.norm_q, stream.norm_k), strict=True):
                    weights[f"transformer_blocks.{i}.attn.{to}"] = mine
            if stream is block.image or not last:
                weights |= {
                    f"transformer_blocks.{i}.attn.{out}": stream.out, f"transformer_blocks.{i}.{ff}.net.0.proj": stream.mlp[0],
                    f"transformer_blocks.{i}.{ff}.net.2": stream.mlp[2],
                }  # fmt: skip
    for name, layer in weights.items():
        of.get_submodule(name).load_state_dict(layer.state_dict())
    for name in ("weight", "bias"):
        shift, scale = getattr(net.norm.modulation, name).data.chunk(2)
        getattr(of.norm_out.linear, name).data = torch.cat([scale, shift])
        # channels last, in a patch, where ours are first
        getattr(of.proj_out, name).data = (
            getattr(net.last, name).data.unflatten(0, (3, 2, 2)).movedim(0, 2).flatten(0, 2)
        )
    return of


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True])
def test_it_is_the_network_of_diffusers(qk_norm):
    net, (x, t, cond) = filled(tiny(qk_norm)), inputs()
    theirs = stock(net)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in net.parameters())
    expected = theirs(x, cond.tokens, cond.pooled, t).sample
    assert expected.std() > 0.5
    torch.testing.assert_close(net(x, t, cond), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("depth", "qk_norm", "parameters"), PUBLISHED)
def test_it_has_the_published_parameters(depth, qk_norm, parameters):
    with torch.device("meta"):
        net = MMDiT(16, 128, 2, HEAD * depth, depth, qk_norm, 4096, 768 + 1280, 192)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.positions.shape == (64**2, HEAD * depth)


@pytest.mark.parametrize(("layers", "parameters"), [(4, 2_394_892), (2, 1_207_052)])
def test_a_small_one_has_the_parameters_of_diffusers(layers, parameters):
    model = {"kind": "mmdit", "patch": 2, "hidden": 128, "layers": layers, "num_heads": 2, "qk_norm": True}
    data = {"name": "scenes", "resolution": 16, "range": [-1.0, 1.0]}
    assert cost(P.load("mnist", "smoke").replace(data=data, model=model)).parameters == parameters


def test_the_multiply_adds_are_those_of_its_products():
    model = {"kind": "mmdit", "patch": 2, "hidden": 128, "layers": 2, "num_heads": 2, "qk_norm": False}
    params = P.load("mnist", "smoke").replace(model=model)
    d, places, tokens, numbers = 128, 4 * 4, params.text.tokens, 4
    each = places + tokens
    blocks = 2 * (each * 12 * d * d + 2 * each * each * d + 12 * d * d) - tokens * 9 * d * d - 4 * d * d
    ends = places * 2 * numbers * d + (256 + d + 512 + d) * d + tokens * 512 * d + 2 * d * d
    assert cost(params).total == blocks + ends


def test_neighbouring_patches_are_so_many_places_apart_in_the_middle_of_the_table():
    model = {"kind": "mmdit", "patch": 2, "hidden": 128, "layers": 1, "num_heads": 2, "qk_norm": True}
    params = P.load("mnist", "smoke")
    third, whole = (build(params.replace(model=model | more)).positions for more in ({}, {"position_step": 1.0}))
    places = (TABLE - 4) // 2 + torch.arange(4)
    assert torch.allclose(third, positions(places / 3, 128), atol=1e-5)
    assert torch.allclose(whole, positions(places, 128), atol=1e-5)


@torch.no_grad()
def test_its_output_begins_at_zero_and_its_blocks_as_the_identity():
    net, (x, t, cond) = tiny(), inputs()
    assert not net(x, t, cond).any()
    tokens, c, context = torch.randn(4, 16, HIDDEN), torch.randn(4, HIDDEN), torch.randn(4, 7, HIDDEN)
    (a, text), (b, none) = (block(tokens, c, context) for block in net.blocks)
    assert torch.equal(a, tokens)
    assert torch.equal(text, context)
    assert torch.equal(b, tokens)
    assert none is None


@torch.no_grad()
def test_each_stream_reads_the_other_the_pooled_text_and_the_time():
    net, (x, t, cond) = filled(tiny()), inputs()
    c, streams = torch.randn(4, HIDDEN), [torch.randn(4, 16, HIDDEN), torch.randn(4, 5, HIDDEN)]
    before = net.blocks[0](streams[0], c, streams[1])
    for changed in (0, 1):
        other = [s + torch.randn(HIDDEN) * (i == changed) for i, s in enumerate(streams)]
        after = net.blocks[0](other[0], c, other[1])
        assert all(((a - b).abs() > 1e-6).float().mean() > 0.99 for a, b in zip(before, after, strict=True))
    usual = net(x, t, cond)
    tokens = cond.tokens.clone()
    tokens[:, -1] += 1
    for other in (
        net(x, t + 0.5, cond),
        net(x, t, Condition(tokens, cond.pooled)),
        net(x, t, Condition(cond.tokens, cond.pooled + 1)),
        net(x.roll(2, -1), t, cond).roll(-2, -1),
        net(x.roll(2, -2), t, cond).roll(-2, -2),
    ):
        assert ((other - usual).flatten(1).abs().amax(1) > 1e-4).all()
    torch.testing.assert_close(net(x[2:3], t[2], cond[2:3]), usual[2:3], rtol=0, atol=1e-4)


def attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(HEAD), -1)


@torch.no_grad()
def test_queries_and_keys_of_length_1_cannot_attend_and_those_of_rms_1_with_a_gain_can():
    """Logits of the first lie between ±1/√d, so no weight is more than e^(2/√d) times another, 1.28 at d = 64."""
    k = F.normalize(torch.randn(100, HEAD, generator=torch.Generator().manual_seed(0)), dim=-1)
    k = torch.cat([k, -k])
    weights = attention(k, k)  # each key meets itself and its opposite
    assert (weights.amax(-1) / weights.amin(-1)).max() == pytest.approx(math.exp(2 / math.sqrt(HEAD)), rel=1e-5)
    assert math.exp(2 / math.sqrt(HEAD)) == pytest.approx(1.284, abs=1e-3)
    stream = Stream(HEAD, qk_norm=True)
    of_rms = attention(stream.norm_q(70 * k), stream.norm_k(90 * k))  # whatever their length was
    assert (of_rms.amax(-1) / of_rms.amin(-1)).log().max() == pytest.approx(2 * math.sqrt(HEAD), rel=1e-4)
    stream.norm_q.weight *= 3
    gained = attention(stream.norm_q(70 * k), stream.norm_k(90 * k))
    assert gained.diagonal().min() > 0.999 > of_rms.diagonal().min() > 5 * weights.diagonal().max()


@torch.no_grad()
def test_with_qk_norm_the_size_of_queries_and_keys_is_no_matter_and_without_it_is():
    x, t, cond = inputs()
    for qk_norm in (True, False):
        net = filled(tiny(qk_norm))
        usual = net(x, t, cond)
        for block in net.blocks:
            for stream in (block.image, block.text):
                for w in (stream.qkv.weight, stream.qkv.bias):
                    w[: 2 * HIDDEN] *= 10
        assert torch.allclose(net(x, t, cond), usual, atol=1e-3) == qk_norm


@pytest.mark.parametrize("kind", ["mmdit", "ssm"])
def test_in_bf16_it_gives_about_what_it_gives_in_fp32_and_warns_of_nothing(kind):
    """A warning is an error here, such as torch's where a norm has no kernel for what it is given."""
    net, (x, t, cond) = filled(tiny() if kind == "mmdit" else SSM(3, 8, 2, HIDDEN, 2, 2, 8, WIDTH)), inputs()
    cond = cond if kind == "mmdit" else Condition(cond.tokens)
    usual = net(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, cond)
    half.float().square().mean().backward()
    assert half.dtype == torch.bfloat16
    assert 0 < ((half - usual).square().mean() / usual.square().mean()).sqrt() < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    net, given = filled(tiny()), inputs()
    net.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(*given), net(*given))


def test_it_is_built_of_its_section():
    model = {"kind": "mmdit", "patch": 4, "hidden": 192, "layers": 3, "num_heads": 3, "qk_norm": False}
    net = build(P.load("mnist", "smoke").replace(model=model))
    assert len(net.blocks) == 3
    assert net.patches.weight.shape == (192, 1, 4, 4)
    assert not any("norm_q" in name for name, _ in net.named_parameters())

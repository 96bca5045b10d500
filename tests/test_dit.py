"""DiT: diffusers' network at equal weights, the published sizes and costs, and four conditionings that begin at 0 and read the text."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from guidebook.conditioning.condition import Condition
from guidebook.config import params as P
from guidebook.config.errors import ParamsError
from guidebook.diffusion.objective import edm, rectified_flow
from guidebook.models import build, load
from guidebook.models.dit import DiT
from guidebook.models.published import cost

CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}  # hidden, layers, num_heads
# By size and patch, with 1,000 classes and learnt variances, at latents of 32 × 32: trainable parameters, and GMAC (table 4)
PUBLISHED = {
    "S/2": (32_865_056, 6.06), "B/2": (130_315_808, 23.01), "L/2": (457_840_672, 80.71), "XL/2": (674_834_720, 118.64),
    "S/4": (32_920_448, 1.41), "B/4": (130_426_496, 5.56), "L/4": (457_988_224, 19.70), "XL/4": (675_000_704, 29.05),
    "S/8": (33_142_016, 0.36), "B/8": (130_869_248, 1.42), "L/8": (458_578_432, 5.01), "XL/8": (675_664_640, 7.39),
}  # fmt: skip
TEXT = ("pooled", "tokens", "attn2", "norm2")  # parts of the network that the paper's has not
WIDTH = 12  # of the tokens


def section(hidden: int, layers: int, num_heads: int, patch: int = 2, conditioning: str = "adaln-zero") -> dict:
    names = ("patch", "hidden", "layers", "num_heads", "conditioning")
    return {"kind": "dit"} | dict(zip(names, (patch, hidden, layers, num_heads, conditioning), strict=True))


def tiny(conditioning: str) -> DiT:
    torch.manual_seed(0)
    return DiT(3, 8, 2, 16, 2, 2, conditioning, WIDTH)


def filled(net: DiT, but: str = "none") -> DiT:
    """The network with random numbers in all weights but those of some layers."""
    for name, w in net.named_parameters():
        if but not in name:
            torch.nn.init.normal_(w, std=0.3)
    return net.eval()


def inputs(n: int = 4) -> tuple[torch.Tensor, Condition]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=rng), Condition(tokens=torch.randn(n, 5, WIDTH, generator=rng))


def stock(net: DiT, y: torch.Tensor) -> DiTTransformer2DModel:
    """diffusers' network with the weights of an AdaLN-zero one, whose embeddings y (B, d) of the text it takes for those of classes.

    It has no cross-attention, and an embedder in each block. Sine and cosine stand in another order, its frequencies end at
    1/10,000, where those of the paper come near it, and its second norm has another ε: all three are settings.
    """
    of = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=1000, norm_eps=1e-6,
    ).eval()  # fmt: skip
    weights = {"pos_embed.proj": net.patches, "proj_out_1": net.norm.modulation}
    for i, (mine, theirs) in enumerate(zip(net.blocks, of.transformer_blocks, strict=True)):
        theirs.norm1.emb.time_proj.downscale_freq_shift, theirs.norm1.emb.time_proj.flip_sin_to_cos = 0, False
        theirs.norm1.emb.class_embedder.embedding_table.weight.data[: len(y)] = y
        at = f"transformer_blocks.{i}"
        weights |= {
            f"{at}.norm1.emb.timestep_embedder.linear_1": net.time[0], f"{at}.attn1.to_q": mine.attn1.q,
            f"{at}.norm1.emb.timestep_embedder.linear_2": net.time[2], f"{at}.attn1.to_out.0": mine.attn1.out,
            f"{at}.ff.net.0.proj": mine.mlp[0], f"{at}.ff.net.2": mine.mlp[2],
        }  # fmt: skip
        for name in ("weight", "bias"):
            key, value = getattr(mine.attn1.kv, name).data.chunk(2)
            both = [getattr(norm.modulation, name).data for norm in (mine.norm1, mine.norm3)]
            getattr(theirs.attn1.to_k, name).data, getattr(theirs.attn1.to_v, name).data = key, value
            getattr(theirs.norm1.linear, name).data = torch.cat(both)
    for name, layer in weights.items():
        of.get_submodule(name).load_state_dict(layer.state_dict())
    for name in ("weight", "bias"):  # channels last, in a patch, where ours are first
        rows = getattr(net.last, name).data.unflatten(0, (3, 2, 2)).movedim(0, 2).flatten(0, 2)
        getattr(of.proj_out_2, name).data = rows
    return of


@torch.no_grad()
@pytest.mark.parametrize("t", [torch.tensor([0, 7, 500, 999]), torch.tensor([0.25, 1.5, 333.3, 998.7])], ids=str)
def test_without_its_text_it_is_the_network_of_diffusers(t):
    net, (x, cond) = filled(tiny("adaln-zero"), but="attn2.out"), inputs()  # where the cross-attention is at 0
    found = net(x, t, cond)
    expected = stock(net, net.pooled(cond.tokens.mean(1)))(x, t, torch.arange(4)).sample
    assert expected.std() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_parameters_and_multiply_adds(name):
    """Those of the text taken away; those of a table of 1,000 classes and none, and of four more channels, the variances, added."""
    size, patch = name.split("/")[0], int(name[-1])
    hidden, layers, num_heads = SIZES[size]
    model = section(hidden, layers, num_heads, patch) | {"vae": "stabilityai/sd-vae-ft-mse"}
    params = P.load("imagenet100", "paper").replace(model=model)
    with torch.device("meta"):
        net = build(params)
    text = sum(p.numel() for key, p in net.named_parameters() if set(key.split(".")) & set(TEXT))
    of, variances = cost(params), 4 * patch**2
    assert of.parameters - text + 1001 * hidden + variances * (hidden + 1) == PUBLISHED[name][0]
    assert of.tables == (32 // patch) ** 2 * hidden

    width, n, places = net.config.width, params.text.tokens, (32 // patch) ** 2
    reads = (width + hidden) * hidden + n * width * hidden + layers * 2 * (places + n) * hidden**2
    macs = of.total - of.macs["cross-attention"] - reads + places * hidden * variances
    assert of.macs["cross-attention"] == layers * 2 * places * n * hidden
    assert macs / 1e9 == pytest.approx(PUBLISHED[name][1], rel=1e-3, abs=0.006)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_its_output_begins_at_zero_and_the_blocks_of_adaln_zero_as_the_identity(conditioning):
    net, (x, cond) = tiny(conditioning), inputs()
    assert not net(x, torch.tensor(5), cond).any()
    tokens, c, context = torch.randn(4, 16, 16), torch.randn(4, 16), torch.randn(4, 7, 16)
    same = [torch.equal(block(tokens, c, context)[0], tokens) for block in net.blocks]
    assert same == [conditioning == "adaln-zero"] * 2


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_after_a_step_it_learns_from_the_text_and_adaln_zero_after_two(conditioning):
    net, (x, cond) = tiny(conditioning), inputs()
    tokens, found = cond.tokens.requires_grad_(), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (net(x, torch.arange(4), cond) - 1).square().mean()
        (gradient,) = torch.autograd.grad(loss, tokens, retain_graph=True)
        loss.backward()
        optimizer.step()
        found.append(bool((gradient != 0).all()))
    assert found == ([False, False, True] if conditioning == "adaln-zero" else [False, True, True])


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_order_of_patches_every_token_the_pooled_text_and_the_time_change_the_output(conditioning):
    net, (x, cond), t = filled(tiny(conditioning)), inputs(), torch.tensor([3.0, 30.0, 300.0, 900.0])
    tokens = cond.tokens.clone()
    tokens[:, 0], tokens[:, 1] = tokens[:, 0] + 1, tokens[:, 1] - 1
    others = [
        net(x, t, Condition(tokens, pooled=cond.tokens.mean(1))),  # with the same mean
        net(x, t, Condition(cond.tokens, pooled=tokens[:, 0])),
        net(x, t + 0.1, cond),
        net(x.roll(2, -1), t, cond).roll(-2, -1),
        net(x.roll(2, -2), t, cond).roll(-2, -2),
    ]
    usual = net(x, t, cond)
    assert torch.equal(usual, net(x, t, Condition(cond.tokens, pooled=cond.tokens.mean(1))))
    assert all(((other - usual).flatten(1).abs().amax(1) > 1e-4).all() for other in others)
    torch.testing.assert_close(net(x[2:3], t[2], cond[2:3]), usual[2:3], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("path", [rectified_flow(), edm()], ids=["flow", "edm"])
def test_it_takes_the_continuous_times_of_an_objective(path):
    net, (x, cond), rng = filled(tiny("adaln-zero")), inputs(), torch.Generator().manual_seed(0)
    t = path.random_times(4, rng)
    assert t.is_floating_point()
    assert path.loss(net, x, torch.randn(x.shape, generator=rng), t, cond).isfinite().all()
    a, b = (net(x, path.embed(time), cond) for time in (t, 1.05 * t))
    assert ((a - b).flatten(1).abs().amax(1) > 1e-3).all()


def test_what_is_loaded_is_what_was_saved(tmp_path):
    net, (x, cond) = filled(tiny("in-context")), inputs()
    net.save_pretrained(tmp_path)
    assert "positions" not in net.state_dict()
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(x, torch.tensor(5), cond), net(x, torch.tensor(5), cond))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_heads": 3}, "model.num_heads = 3 must divide model.hidden = 16"),
        ({"patch": 3}, "model.patch = 3 must divide the 8 pixels across"),
        ({"hidden": 18}, "model.hidden"),
        ({"conditioning": "adaln-one"}, "model.conditioning"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    with pytest.raises(ParamsError, match=said):
        P.load("mnist", "smoke").replace(model=section(16, 2, 2) | change)


def test_a_patch_divides_the_latents_not_the_pixels():
    model = section(16, 2, 2, patch=64) | {"vae": "stabilityai/sd-vae-ft-mse"}
    with pytest.raises(ParamsError, match=r"model.patch = 64 must divide the 32 points of a latent across"):
        P.load("imagenet100", "paper").replace(model=model)

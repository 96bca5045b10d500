"""State space backbone: three forms of one recurrence, Mamba-2 of transformers in each scan, and laws of causes, of flips and of cost."""

import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from guidebook.conditioning.condition import Condition
from guidebook.config import params as P
from guidebook.models import build, load
from guidebook.models.published import cost
from guidebook.models.ssm import CHUNK, KERNEL, SCANS, SSM, Mixer, chunked, recurrent, turned

SIDE, HIDDEN, HEADS, STATE, WIDTH = 4, 16, 2, 3, 12


def sequence(tokens: int = 150) -> tuple[torch.Tensor, ...]:
    """(x, l, b, c) of 2 sequences, of 3 heads of 5 channels and states of 4 numbers."""
    rng = torch.Generator().manual_seed(0)
    x, l, b, c = (torch.randn(2, tokens, *n, generator=rng).double() for n in ((3, 5), (3,), (4,), (4,)))
    return x, -l.exp(), b, c


def mixer(side: int = SIDE) -> Mixer:
    torch.manual_seed(0)
    made = Mixer(HIDDEN, HEADS, STATE, side)
    for w in made.parameters():
        torch.nn.init.normal_(w, std=0.3)
    return made.eval()


def ordered(u: torch.Tensor, scan: int) -> torch.Tensor:
    """Tokens (B, T, d) in the order of a scan; twice, as they were."""
    u = turned(u, SIDE) if scan % 2 else u
    return u.flip(1) if scan > 1 else u


@pytest.mark.parametrize("chunk", [1, 7, CHUNK, 150, 1000])
def test_the_chunked_and_the_matrix_form_are_the_recurrence(chunk):
    given = sequence()
    torch.testing.assert_close(chunked(*given, chunk), recurrent(*given), rtol=0, atol=1e-10)


def test_a_state_that_forgets_at_once_has_gradients_that_are_finite():
    x, l, b, c = (v.float().requires_grad_() for v in sequence())
    chunked(x, 1e4 * l, b, c).square().mean().backward()
    assert all(v.grad.isfinite().all() for v in (x, l, b, c))


def test_an_output_depends_on_no_later_input():
    given = sequence()
    later = [v.clone() for v in given]
    for v in later:
        v[:, 100:] *= 0.5
    same = (chunked(*later) - chunked(*given)).abs().amax((0, 2, 3)) == 0
    assert same.tolist() == [t < 100 for t in range(150)]


def of_transformers(net: Mixer, scan: int) -> Mamba2Mixer:
    """Mamba-2 with the weights of one scan."""
    theirs = Mamba2Mixer(
        Mamba2Config(
            hidden_size=HIDDEN, num_heads=HEADS, head_dim=2 * HIDDEN // HEADS, state_size=STATE, n_groups=1, expand=2,
            conv_kernel=KERNEL, chunk_size=5, rms_norm=True, layer_norm_epsilon=1e-5, use_bias=False,
        ), 0,
    ).eval()  # fmt: skip
    weight, bias = (w.data.chunk(SCANS)[scan] for w in (net.conv.weight, net.conv.bias))
    weights = {
        "in_proj.weight": net.into.weight, "conv1d.weight": weight, "conv1d.bias": bias, "norm.weight": net.norm.weight,
        "dt_bias": net.bias[scan, 0], "A_log": net.log_a[scan, 0], "D": net.d[scan, 0, :, 0], "out_proj.weight": net.out.weight,
    }  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("scan", range(SCANS))
def test_each_scan_is_mamba_2_of_transformers_in_its_order(scan):
    """Where the others read nothing."""
    net, u = mixer(), torch.randn(2, SIDE**2, HIDDEN, generator=torch.Generator().manual_seed(1))
    for i, (weight, bias) in enumerate(zip(net.conv.weight.chunk(SCANS), net.conv.bias.chunk(SCANS), strict=True)):
        if i != scan:
            weight.zero_()
            bias.zero_()
    expected = ordered(of_transformers(net, scan)(ordered(u, scan)), scan)
    assert expected.std() > 0.05
    torch.testing.assert_close(net(u), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_scans_of_equal_weights_turn_with_the_image():
    net, u = mixer(), torch.randn(2, SIDE**2, HIDDEN, generator=torch.Generator().manual_seed(1))
    image = u.unflatten(1, (SIDE, SIDE))
    turns = [image.flip(1), image.flip(2), image.transpose(1, 2)]

    def kept() -> list[bool]:
        out = net(u).unflatten(1, (SIDE, SIDE))
        found = [net(turn.flatten(1, 2)).unflatten(1, (SIDE, SIDE)) for turn in turns]
        return [
            torch.allclose(a, b, atol=1e-5)
            for a, b in zip(found, (out.flip(1), out.flip(2), out.transpose(1, 2)), strict=True)
        ]

    assert kept() == [False] * 3
    for w in (net.conv.weight, net.conv.bias, net.bias, net.log_a, net.d):
        w.copy_(w.chunk(SCANS)[0].repeat(SCANS, *[1] * (w.ndim - 1)))
    # Rows run down the image, and a row from left to right: of a flip of either alone there is no scan
    assert kept() == [False, False, True]
    both, out = image.flip(1, 2), net(u).unflatten(1, (SIDE, SIDE))
    torch.testing.assert_close(net(both.flatten(1, 2)).unflatten(1, (SIDE, SIDE)), out.flip(1, 2), rtol=0, atol=1e-5)


def section(**changes) -> dict:
    return {"kind": "ssm", "patch": 2, "hidden": 128, "layers": 6, "num_heads": 4, "state": 16} | changes


def test_the_parameters_are_those_of_the_formula():
    d, width, n, heads, state = 128, 512, 2 * 128 + 2 * 16, 4, 16
    scan = n * (KERNEL + 1) + 3 * heads
    mix = d * (4 * d + 2 * state + heads) + SCANS * scan + 2 * d + 2 * d * d
    text = 4 * (d * d + d) + 2 * d
    block = mix + text + 8 * d * d + 5 * d + 6 * (d * d + d)
    ends = 3 * 4 * d + d + 256 * d + d + d * d + d + width * d + d + d * d + d + width * d + d
    ends += 2 * (d * d + d) + 12 * d + 12
    params = P.load("mnist", "smoke").replace(
        data={"name": "scenes", "resolution": 16, "range": [-1.0, 1.0]}, model=section()
    )
    assert cost(params).parameters == 6 * block + ends


def test_the_cost_grows_with_the_tokens_and_that_of_attention_with_their_square():
    """Of a side twice as long, where it is whole chunks: four times, and sixteen."""

    def of(model: dict) -> list[int]:
        sides = [P.load("mnist", "smoke").replace(data={"resolution": s}, model=model) for s in (16, 32, 64, 128)]
        return [cost(p).macs["self-attention"] for p in sides]

    scan = of(section(layers=1, hidden=32))
    attention = of({"kind": "dit", "patch": 2, "hidden": 32, "layers": 1, "num_heads": 4, "conditioning": "adaln-zero"})
    tokens = [64, 256, 1024, 4096]
    within = [SCANS * t * CHUNK * (16 + 64) for t in tokens]  # C Bᵀ, and what is kept of each head's channels
    across = [SCANS * t * 2 * 16 * 64 * (t > CHUNK) for t in tokens]  # into states, and out of them
    assert scan == [a + b for a, b in zip(within, across, strict=True)]
    assert attention == [2 * t * t * 32 for t in tokens]


def filled() -> SSM:
    torch.manual_seed(0)
    net = SSM(3, 8, 2, 16, 2, 2, 3, WIDTH)
    for w in net.parameters():
        torch.nn.init.normal_(w, std=0.3)
    return net.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, Condition]:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, 5, WIDTH, generator=rng)
    return torch.randn(4, 3, 8, 8, generator=rng), torch.tensor([3.0, 30.0, 300.0, 900.0]), Condition(tokens)


@torch.no_grad()
def test_its_output_begins_at_zero_and_its_blocks_as_the_identity():
    net, (x, t, cond) = SSM(3, 8, 2, 16, 2, 2, 3, WIDTH), inputs()
    assert not net(x, t, cond).any()
    tokens = torch.randn(4, 16, 16)
    assert all(torch.equal(block(tokens, torch.randn(4, 16), torch.randn(4, 7, 16))[0], tokens) for block in net.blocks)


@torch.no_grad()
def test_every_pixel_every_token_of_the_text_and_the_time_change_every_output():
    net, (x, t, cond) = filled(), inputs()
    usual, tokens = net(x, t, cond), cond.tokens.clone()
    tokens[:, -1] += 1
    for other in (net(x, t + 0.5, cond), net(x, t, Condition(tokens))):
        assert ((other - usual).abs() > 1e-6).float().mean() > 0.99
    for at in ((0, 0), (7, 7), (3, 5)):
        changed = x.clone()
        changed[..., at[0], at[1]] += 1
        assert ((net(changed, t, cond) - usual).abs() > 1e-6).float().mean() > 0.99
    torch.testing.assert_close(net(x[2:3], t[2], cond[2:3]), usual[2:3], rtol=0, atol=1e-4)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    net, given = filled(), inputs()
    net.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(*given), net(*given))


def test_it_is_built_of_its_section():
    net = build(P.load("mnist", "smoke").replace(model=section(hidden=32, num_heads=8, state=5, layers=3)))
    first = net.blocks[0].attn1
    assert (len(net.blocks), first.num_heads, first.state, first.inner, first.side) == (3, 8, 5, 64, 4)

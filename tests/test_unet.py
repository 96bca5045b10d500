"""The U-Net: the published size, weights that depend on the seed alone, and what it costs."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from guidebook.conditioning.condition import Condition
from guidebook.config import params as P
from guidebook.models import build, load
from guidebook.models.published import cost

SMOKE = P.load("mnist", "smoke")


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def condition(n: int) -> Condition:
    return Condition(tokens=torch.randn(n, 4, 512))


def test_the_published_network_has_3_140_385_parameters():
    assert cost(P.load("mnist", "paper")).parameters == 3_140_385
    assert len(flat(build(SMOKE))) == cost(SMOKE).parameters


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(SMOKE)
    cost(SMOKE)
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_same_weights_whatever_was_drawn_before():
    first = flat(build(SMOKE))
    torch.rand(5)
    assert torch.equal(flat(build(SMOKE)), first)


def test_another_seed_other_weights():
    assert not torch.equal(flat(build(SMOKE)), flat(build(SMOKE.replace(train={"seed": 1}))))


def test_what_is_no_part_of_the_network_does_not_change_its_weights():
    changed = SMOKE.replace(train={"lr": 0.5, "batch": 3}, sample={"seed": 9}, objective={"timesteps": 500})
    assert torch.equal(flat(build(SMOKE)), flat(build(changed)))


@pytest.mark.parametrize("channels", [[32, 32, 32], [32, 64, 64, 64]])
def test_an_output_has_the_shape_of_the_image(channels):
    model = build(SMOKE.replace(model={"channels": channels})).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 8, 8), torch.tensor(5), condition(2)).shape == (2, 1, 8, 8)


def test_every_setting_of_the_model_changes_the_network():
    changes = [
        {},
        {"modulation": "scale-shift"},
        {"layers_per_block": 2},
        {"channels": [32, 64, 32]},
        {"channels": [32, 32, 32, 32]},
    ]
    assert len({cost(SMOKE.replace(model=change)).parameters for change in changes}) == len(changes)
    wide = build(SMOKE.replace(model={"num_heads": 16})).config.attention_head_dim
    assert (build(SMOKE).config.attention_head_dim, wide) == (8, 16)


def test_the_caption_reaches_the_output():
    model, x = build(SMOKE).eval(), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        a, b = (model(x, torch.tensor(5), condition(1)) for _ in range(2))
    assert (a - b).abs().max() > 1e-3


def test_what_is_loaded_is_what_was_saved_and_diffusers_loads_it_too(tmp_path):
    net, x, cond = build(SMOKE).eval(), torch.randn(2, 1, 8, 8), condition(2)
    net.save_pretrained(tmp_path)
    ours, theirs = load(tmp_path), UNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True).eval()
    assert list(net.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        expected = net(x, 5, cond)
        for found in (ours(x, 5, cond), theirs(x, 5, cond.tokens).sample, net.stock()(x, 5, cond.tokens).sample):
            assert torch.equal(found, expected)
    assert type(net.stock()) is UNet2DConditionModel


def test_a_cpu_keeps_a_number_for_every_pair_of_places_only_where_they_are_few():
    cond, cpu = condition(1), torch.device("cpu")
    for side, plain in ((8, True), (64, True), (128, False)):
        params = SMOKE.replace(data={"resolution": side}, train={"precision": "bf16"})
        model, as_it_comes = build(params).place(cpu, params.train), build(params)
        assert model.attn_processors
        kinds = {type(p) for p in model.attn_processors.values()}
        assert (kinds != {type(p) for p in as_it_comes.attn_processors.values()}) == plain
        x = torch.randn(1, model.config.in_channels, side, side)
        with torch.no_grad():
            torch.testing.assert_close(model(x, 5, cond), as_it_comes(x, 5, cond), rtol=1e-3, atol=1e-4)


def test_the_cost_of_attention_grows_with_the_square_of_its_places():
    """Of a + b s² + c s⁴ operations for s places across, the last are the products of every place with every other."""
    few, more, many = (cost(SMOKE.replace(data={"resolution": side})).gflop for side in (16, 32, 64))
    model, pairs = build(SMOKE), 0
    for name in model.attn_processors:
        if "attn1" in name:
            across = 8 if "mid_block" not in name else 4
            pairs += 2 * 2 * across**4 * model.get_submodule(name.removesuffix(".processor")).inner_dim
    assert pairs
    assert (many - more) - 4 * (more - few) == pytest.approx(180 * pairs / 1e9)


def test_the_cost_is_at_least_one_multiply_add_per_weight_and_place_of_every_convolution():
    model = build(SMOKE)
    by_hand = 64 * (model.conv_in.weight.numel() + model.conv_out.weight.numel())  # 8×8 places each
    assert by_hand / 1e9 < cost(SMOKE).gmac < 0.5
    assert cost(SMOKE).gflop == 2 * cost(SMOKE).gmac

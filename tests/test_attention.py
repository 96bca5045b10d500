"""What attention does, watched while a network runs: closed forms, and real networks as they are."""

import math

import pytest
import torch
import torch.nn.functional as F

from guidebook.models import dit
from guidebook.models.dit import Attention, attend
from guidebook.models.mmdit import HEAD, Block
from guidebook.training.attention import HEADS, AttentionStatistics
from guidebook.training.step import prepared
from guidebook.training.validation import Validation


def seen(q, k):
    with (attention := AttentionStatistics()):
        F.scaled_dot_product_attention(q, k, torch.randn_like(k))
    return attention.facts()


def test_equal_keys_are_weighed_alike():
    q, k = -torch.rand(2, 3, 5, 4), torch.ones(2, 3, 7, 4)
    found = seen(q, k)
    assert found["attention_entropy"] == pytest.approx(1, abs=1e-6)
    assert found["largest_logit"] == pytest.approx((q.sum(-1).abs().max() / 2).item(), rel=1e-6)


def test_a_key_far_ahead_takes_all_the_weight():
    keys = torch.zeros(1, 1, 4, 4)
    keys[0, 0, 0] = 1
    found = seen(torch.full((1, 1, 5, 4), 50.0), keys)
    assert found["attention_entropy"] < 1e-6
    assert found["largest_logit"] == pytest.approx(100, rel=1e-6)  # 4 · 50 / √4


def test_two_keys_have_the_entropy_of_their_chances():
    q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.0], [math.log(3)]]]])  # chances 1/4 and 3/4
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert seen(q, k)["attention_entropy"] == pytest.approx(expected, abs=1e-6)


def test_it_is_of_the_first_heads_alone_and_nothing_where_nothing_attends():
    q = torch.ones(HEADS + 1, 1, 3, 4)
    q[-1] = 1000
    assert seen(q, torch.ones(HEADS + 1, 1, 3, 4))["largest_logit"] == pytest.approx(2)
    with (attention := AttentionStatistics()):
        torch.ones(3) @ torch.ones(3)
    assert attention.facts() == {}


def test_what_is_masked_is_left_out():
    q, mask = torch.randn(1, 1, 3, 4), torch.ones(3, 3, dtype=torch.bool).tril()
    with (attention := AttentionStatistics()):
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert attention.facts() == {}


def test_normed_queries_and_keys_cannot_pass_the_root_of_their_length():
    torch.manual_seed(0)
    found = {}
    for normed in (True, False):
        block = Block(2 * HEAD, normed, last=False)
        for stream in (block.image, block.text):
            torch.nn.init.normal_(stream.qkv.weight, std=1.0)
        with (attention := AttentionStatistics()):
            block(torch.randn(2, 5, 2 * HEAD), torch.randn(2, 2 * HEAD), torch.randn(2, 3, 2 * HEAD))
        found[normed] = attention.facts()["largest_logit"]
    assert found[True] <= math.sqrt(HEAD) < found[False]


def test_what_a_network_computes_is_the_same_when_it_is_watched():
    layer, x = Attention(8, 2), torch.randn(2, 5, 8)
    plain = layer(x, x)
    with AttentionStatistics():
        assert torch.equal(layer(x, x), plain)


def test_a_line_of_statistics_has_it(tiny):
    found = Validation(prepared(tiny))()
    assert found["largest_logit"] > 0
    assert 0 < found["attention_entropy"] <= 1


@pytest.mark.parametrize("places", [(5, 5), (16, 3), (1, 300)])
def test_plain_products_give_what_the_fused_function_gives(places, monkeypatch):
    """In bf16 either is near to float64, output and gradients, and they are not one function."""
    t, s = places
    given = [torch.randn(2, 3, n, 8).bfloat16() for n in (t, s, s)]
    exact = _with_gradients([x.double() for x in given])
    found = {}
    for most in (dit.PAIRS, 0):
        monkeypatch.setattr(dit, "PAIRS", most)
        found[most] = _with_gradients(given)
        far = [
            ((a.double() - b).norm() / b.norm().clamp(min=0.1)).item() for a, b in zip(found[most], exact, strict=True)
        ]
        assert max(far) < 0.02
    assert not all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


def _with_gradients(given: list[torch.Tensor]) -> list[torch.Tensor]:
    given = [x.clone().requires_grad_() for x in given]
    with torch.autocast("cpu", torch.bfloat16, enabled=given[0].dtype == torch.bfloat16):  # as in a training
        out = attend(*given)
    return [out, *torch.autograd.grad(out.square().sum(), given)]


def test_plain_products_are_watched_too():
    q, k, v = torch.randn(3, 2, 3, 5, 8).bfloat16()
    with (attention := AttentionStatistics()):
        attend(q, k, v)
    assert attention.facts() == pytest.approx(seen(q, k), rel=0.01)


def test_a_u_net_is_watched_in_bf16(tiny):
    found = {}
    for precision in ("fp32", "bf16"):
        found[precision] = Validation(prepared(tiny.replace(train={"precision": precision})))()
    assert found["bf16"]["largest_logit"] == pytest.approx(found["fp32"]["largest_logit"], rel=0.05)
    assert found["bf16"]["attention_entropy"] == pytest.approx(found["fp32"]["attention_entropy"], rel=0.01)

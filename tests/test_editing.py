"""One attribute changed while the noise stays, and noise that turns while the caption stays."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guidebook.conditioning.grammar import _BIT, consistent, switched
from guidebook.config.datasets import ATTRIBUTES
from guidebook.config.params import check, load
from guidebook.metrics.judge import judge
from guidebook.metrics.measure import edit_records
from guidebook.runs.run import open_run
from guidebook.sampling import explore
from guidebook.sampling.sampler import slerp
from guidebook.training.loop import train


@given(st.integers(0, 2**40 - 1), st.sampled_from(ATTRIBUTES))
def test_a_switched_attribute_is_said_where_it_was_not_there_and_no_other_comes(attributes, name):
    bit, now = _BIT[name], switched(attributes, name)
    assert bool(now & bit) != bool(attributes & bit)
    assert now & ~bit & ~attributes == 0  # no other comes; those that would silence it may go
    beard = name in ("5_o_Clock_Shadow", "Goatee", "Mustache", "No_Beard", "Sideburns")
    if now & bit and not (beard and not now & _BIT["Male"]):
        assert consistent(now) & bit
    if attributes & bit:
        assert now == attributes & ~bit


def test_the_great_circle_begins_and_ends_in_the_noises_and_turns_evenly():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 8, 8, generator=rng) for _ in range(2))
    b = b * a.norm() / b.norm()
    way = slerp(a, b, torch.linspace(0, 1, 7)[:, None, None, None])
    torch.testing.assert_close(way[0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(way[-1], b, atol=1e-5, rtol=1e-5)
    lengths = way.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, a.norm().expand(7), atol=1e-3, rtol=1e-4)
    turns = [float(torch.acos((x.flatten() @ y.flatten()) / (x.norm() * y.norm()))) for x, y in itertools.pairwise(way)]
    whole = float(torch.acos((a.flatten() @ b.flatten()) / (a.norm() * b.norm())))
    assert math.isclose(sum(turns), whole, rel_tol=1e-3)
    assert max(turns) - min(turns) < 1e-2 * whole


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared):
    """A latent run of twelve steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path_factory.mktemp("runs"))))
        found = open_run(check(load("celeba", "smoke").model_dump(mode="json"), "smoke"))
        train(found)
        yield found


def test_edits_of_one_face_differ_in_the_caption_alone(run):
    images = explore.edits(run, 2.0, 3, ("Male", "Smiling"))
    assert images.images.shape == (9, 3, 16, 16)
    faces = images.labels[::3]
    for i, name in enumerate(("Male", "Smiling")):
        assert images.labels[i + 1 :: 3].tolist() == [switched(face, name) for face in faces.tolist()]
    assert not torch.equal(images.images[0], images.images[1])
    assert torch.equal(explore.edits(run, 2.0, 3, ("Male", "Smiling")).images, images.images)  # found
    alone = explore.edits(run, 2.0, 1, ("Male", "Smiling"))
    assert (alone.images.int() - images.images[:3].int()).abs().max() <= 1  # an image does not depend on its neighbours


def test_edits_are_drawn_anew_by_another_sampler_and_measured_once(run):
    images = explore.edits(run, 2.0, 3, ("Male",))
    records = edit_records(run, images)
    assert [(r["metric"], r["attribute"], r["n"]) for r in records] == [("edit_before", "Male", 3), ("edit", "Male", 3)]
    sees = judge(run.params.data).features(images.images)["classes"] & _BIT["Male"]
    now = images.labels & _BIT["Male"]
    assert torch.equal(now[::2] == 0, now[1::2] != 0)
    for record, seen in zip(records, (sees[::2], sees[1::2]), strict=True):
        assert record["value"] == pytest.approx((seen == now[1::2]).double().mean().item())
        assert 0 <= record["low"] <= record["value"] <= record["high"] <= 1
    assert edit_records(run, images) == records
    other = run.params.replace(sample={"steps": 2})
    assert explore.edits(open_run(other), 2.0, 3, ("Male",)).folder != images.folder


def test_each_row_of_an_interpolation_begins_where_its_first_noise_leads(run):
    images = explore.interpolation(run, 2.0, rows=2, columns=3)
    assert images.images.shape == (6, 3, 16, 16)
    assert images.labels[:3].unique().numel() == 1
    two = explore.interpolation(run, 2.0, rows=2, columns=2).images  # the ends alone
    for got, wanted in ((images.images[0], two[0]), (images.images[2], two[1]), (images.images[5], two[3])):
        assert (got.int() - wanted.int()).abs().max() <= 1

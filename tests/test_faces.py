"""Drawn faces: a picture is a function of its attributes and its seed, and shows every attribute."""

import hashlib

import pytest
import torch

from guidebook.config.datasets import ATTRIBUTES
from guidebook.data.drawn import faces as module
from guidebook.data.drawn.faces import SILENCES, random_attributes, render
from guidebook.data.drawn.shapes import Canvas, circle, ellipse, segment, soften, squircle, wave

AT = {name: i for i, name in enumerate(ATTRIBUTES)}
PAIRS = [(loud, still) for loud, others in SILENCES.items() for still in others]
BEARDS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns")


def put(attributes: torch.Tensor, **values: bool) -> torch.Tensor:
    """The same attributes with some of them set or cleared."""
    changed = attributes.clone()
    for name, value in values.items():
        changed[:, AT[name]] = value
    return changed


def apart(attributes: torch.Tensor, name: str, side: int, most: int | None = None) -> torch.Tensor:
    """What setting an attribute changes (N, 3, H, W), of 255 values, in the first faces where no other silences it."""
    loud = [AT[l] for l, still in PAIRS if still == name]
    heard = (~attributes[:, loud].any(1)).nonzero()[:most, 0]
    with_, without = (render(put(attributes[heard], **{name: v}), heard, side).double() for v in (True, False))
    return (with_ - without).abs()


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    return random_attributes(6000, 3)


def test_the_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256(render(random_attributes(50, 0), range(50), 32).numpy().tobytes()).hexdigest()
    assert digest.startswith("59165b8d78d04596"), "recorded runs were trained on other pixels"


def test_pictures_are_bytes_in_three_channels(many):
    pictures = render(many[:3], torch.tensor([5, 6, 7]), 24)
    assert pictures.shape == (3, 3, 24, 24)
    assert pictures.dtype == torch.uint8


@pytest.mark.parametrize("chunk", [1, 3000, 2**20])
def test_a_picture_does_not_depend_on_the_others_of_its_batch(chunk, many, monkeypatch):
    whole = render(many[:40], range(40), 32)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert torch.equal(torch.cat([render(many[i : i + 1], [i], 32) for i in range(40)]), whole)
    assert torch.equal(render(many[:40].flip(0), range(39, -1, -1), 32), whole.flip(0))


def test_no_faces_are_no_pictures():
    assert render(random_attributes(0, 0), [], 16).shape == (0, 3, 16, 16)
    assert random_attributes(0, 0).shape == (0, 40)


def test_attributes_depend_on_their_seed_and_number_alone(many):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(random_attributes(130, 3), many[:130])
    assert len(torch.cat([many, random_attributes(2000, 4)]).unique(dim=0)) > 7900
    render(many[:5], range(5), 16)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_attribute_is_common_and_so_is_its_absence(many):
    assert many.dtype == torch.bool
    rates = dict(zip(ATTRIBUTES, many.double().mean(0).tolist(), strict=True))
    assert {name: rate for name, rate in rates.items() if not 0.05 < rate < 0.82} == {}
    assert rates["Male"] == pytest.approx(0.5, abs=0.03)
    for hair in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"):
        assert rates[hair] > 0.12


def test_attributes_of_random_faces_do_not_contradict_each_other(many):
    has = {name: many[:, i] for name, i in AT.items()}
    women, clean = ~has["Male"], has["No_Beard"]
    exclusive = [("Young", "Gray_Hair"), ("Oval_Face", "Chubby"), ("Big_Nose", "Pointy_Nose"), *PAIRS]
    for one, other in exclusive:
        assert not (has[one] & has[other]).any(), f"{one} and {other}"
    for name in (*BEARDS, "Bald", "Wearing_Necktie"):
        assert not (women & has[name]).any()
    assert clean[women | has["5_o_Clock_Shadow"]].all()
    for name in BEARDS[1:]:
        assert not (clean & has[name]).any()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_seen(name, many):
    sharp = put(many[:60], Blurry=False)
    for side in (64, 32):
        change = apart(sharp, name, side, most=20)
        assert len(change) > 10
        assert change.mean((1, 2, 3)).min() > 0.05
        assert change.mean() > 0.15
        assert change.amax((1, 2, 3)).min() > 8
        assert change.amax((1, 2, 3)).median() > 40


@pytest.mark.parametrize(("loud", "still"), PAIRS)
def test_a_silenced_attribute_changes_nothing(loud, still, many):
    faces = put(many[:20], **{loud: True})
    faces = put(faces, **{l: False for l, others in SILENCES.items() if loud in others})
    on, off = (render(put(faces, **{still: value}), range(20), 32) for value in (True, False))
    assert torch.equal(on, off)


@pytest.mark.parametrize(
    ("names", "top", "bottom"),  # of the picture's height
    [
        (("Wearing_Hat", "Bangs", "Receding_Hairline"), 0, 0.6),
        (("Arched_Eyebrows", "Bushy_Eyebrows", "Narrow_Eyes", "Eyeglasses", "Heavy_Makeup"), 0.2, 0.65),
        (("Big_Nose", "Pointy_Nose", "Rosy_Cheeks", "High_Cheekbones"), 0.3, 0.75),
        (("Smiling", "Mouth_Slightly_Open", "Big_Lips", "Wearing_Lipstick", "Mustache"), 0.5, 0.85),
        (("Wearing_Necktie", "Wearing_Necklace", "Goatee", "Double_Chin"), 0.6, 1),
    ],
)
def test_an_attribute_is_seen_where_it_belongs(names, top, bottom, many):
    for name in names:
        change = apart(put(many[:60], Blurry=False), name, 64, most=20)
        change[:, :, round(64 * top) : round(64 * bottom)] = 0
        assert change.max() == 0, name


def test_every_set_of_attributes_is_drawn():
    sets = torch.rand(200, 40, generator=torch.Generator().manual_seed(0)) < 0.5
    sets[0], sets[1] = True, False
    pictures = render(sets, [0] * 200, 32)
    assert len(pictures.flatten(1).unique(dim=0)) == 200
    assert pictures.double().std((1, 2, 3)).min() > 10


def test_the_seed_moves_and_colours_a_face(many):
    alike = render(many[:1].expand(50, 40), range(50), 32).double()
    assert len(alike.flatten(1).unique(dim=0)) == 50
    assert alike.std(0).mean() > 20


def test_a_face_fills_much_of_its_picture_and_is_wholly_in_it(many):
    head = apart(put(many[:200], Bald=True, Wearing_Hat=False, Blurry=False), "Pale_Skin", 32).amax(1) > 2
    across, down = (head.any(dim).sum(1) for dim in (1, 2))
    assert across.min() > 14
    assert down.min() > 20
    assert not head[:, :24, [0, -1]].any()
    assert not head[:, 0].any()


def test_painting_on_a_part_of_the_canvas_leaves_nothing_out(many, monkeypatch):
    for side in (7, 32, 64):
        parts = render(many[:100], range(100), side)
        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "part", lambda self, *bounds: self)
            assert torch.equal(render(many[:100], range(100), side), parts)


def test_pixels_use_the_whole_range_and_are_seldom_clipped(many):
    pixels = render(many[:500], range(500), 32)
    assert pixels.min() < 30
    assert pixels.max() > 245
    assert ((pixels == 0) | (pixels == 255)).double().mean() < 0.005
    assert 100 < pixels.double().mean() < 160
    for channel in pixels.double().transpose(0, 1):
        assert channel.std() > 50


@pytest.mark.parametrize(("side", "limit"), [(16, 5.0), (32, 3.5)])
def test_twice_the_resolution_shows_the_same_picture(side, limit, many):
    sharp = put(many[:200], Blurry=False)
    fine = torch.nn.functional.avg_pool2d(render(sharp, range(200), 2 * side).double(), 2)
    assert (fine - render(sharp, range(200), side)).abs().mean() < limit


def test_softening_keeps_the_mean_and_spreads_a_point():
    point = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    point[..., 16, 12] = 1
    soft = soften(point)
    assert soft.sum() == 1
    assert soft[0, 0, 16, 12] == soft.max() < 0.2
    assert torch.equal(soft[..., 14:19, 10:15], soft[..., 14:19, 10:15].flip(2, 3))
    assert torch.equal(soften(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))


def test_shapes_that_ought_to_agree_do():
    u, v = torch.rand(2, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    disc, rim = circle(u, v, 0, 0, 0.5), circle(u, v, 0, 0, 0.5).abs() < 0.02
    assert torch.allclose(ellipse(u, v, 0, 0, 0.5, 0.5)[rim], disc[rim], atol=5e-4)
    assert torch.allclose(squircle(u, v, 0.5, 0.5, 0.0), disc)
    assert torch.allclose(segment(u, v, (0.0, 0.0), (0.0, 1e-9), 0.5), disc)
    assert (squircle(u, v, 0.5, 0.5, 1.0) <= disc).all()
    assert ((segment(u, v, (-0.3, 0.2), (0.4, 0.1), 0.0) - circle(u, v, 0.05, 0.15, 0.0)) < 1e-12).all()


def test_a_wave_is_one_at_whole_numbers_and_minus_one_between_them():
    at = torch.arange(-2, 2, 0.125, dtype=torch.float64)
    assert wave(at)[::8].tolist() == [1] * 4
    assert wave(at)[4::8].tolist() == [-1] * 4
    assert torch.allclose(wave(at), torch.cos(2 * torch.pi * at), atol=0.03)


@pytest.mark.parametrize(("rows", "dtype"), [(3, torch.bool), (2, torch.uint8)])
def test_attributes_that_do_not_fit_are_refused(rows, dtype):
    with pytest.raises(ValueError, match=r"give \(2, 40\), torch.bool"):
        render(torch.zeros(rows, 40, dtype=dtype), [0, 1], 16)

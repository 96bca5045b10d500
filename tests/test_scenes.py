"""Drawn scenes: a picture is a function of its scene, and shows what the scene says."""

import hashlib
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from guidebook.data.drawn import scenes as module
from guidebook.data.drawn.scenes import COLOURS, KINDS, SHAPES, SIZES, TURN, Scene, random_scenes, render


def one(kind: str, background: str = "black", light: float = 90.0, **changes) -> Scene:
    fields = {"colour": "white", "x": 0.5, "y": 0.5, "size": 0.6, "angle": 0.0}
    return Scene(kind, background=background, light=light, **fields | changes)


def outline(scenes: list[Scene], resolution: int) -> torch.Tensor:
    """Which pixels (N, H, W) the objects cover: they are drawn in white on black."""
    changes = {"colour": "white", "background": "black", "light": 90.0}
    return render([replace(s, **changes) for s in scenes], resolution)[:, 0] > 100


def features(scenes: list[Scene]) -> torch.Tensor:
    return outline(scenes, 16).flatten(1).float()


def labels(scenes: list[Scene]) -> list[str]:
    return [s.kind for s in scenes]


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return random_scenes(2000, 3)


def test_the_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256(render(random_scenes(50, 0), 16).numpy().tobytes()).hexdigest()
    assert digest.startswith("f9f95c396fef8dcb"), "recorded runs were trained on other pixels"


@pytest.mark.parametrize("chunk", [1, 700, 2**20])
def test_a_picture_does_not_depend_on_the_others_of_its_batch(chunk, many, monkeypatch):
    whole = render(many[:60], 16)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert torch.equal(torch.cat([render([s], 16) for s in many[:60]]), whole)
    assert torch.equal(render(many[59::-1], 16), whole.flip(0))


def test_no_scenes_are_no_pictures():
    assert render([], 16).shape == (0, 3, 16, 16)
    assert random_scenes(0, 0) == []


def test_a_scene_depends_on_its_seed_and_number_alone(many):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert random_scenes(130, 3) == many[:130]
    assert len({*many, *random_scenes(2000, 4)}) == 4000
    assert torch.equal(torch.get_rng_state(), before)


def test_every_prefix_holds_the_kinds_evenly(many):
    for n in (10, 50, 2000):
        assert Counter(labels(many[:n])) == dict.fromkeys(KINDS, n // 10)
    assert tuple(SHAPES) == KINDS


def test_colours_places_sizes_and_angles_are_spread_alike_over_the_kinds(many):
    for kind in KINDS:
        things = [s for s in many if s.kind == kind]
        assert {t.colour for t in things} == set(COLOURS)
        for values, low, high in (
            ([t.size for t in things], *SIZES),
            ([t.angle for t in things], -TURN, TURN),
            ([(t.x - 0.5) / (1 - 1.15 * t.size) for t in things], -0.5, 0.5),
            ([(t.y - 0.5) / (1 - 1.15 * t.size) for t in things], -0.5, 0.5),
        ):
            quarters = Counter(int(4 * (v - low) / (high - low)) for v in values)
            assert sorted(quarters) == [0, 1, 2, 3]
            assert min(quarters.values()) > len(values) / 8


def test_kinds_are_told_apart_by_their_outline(many):
    level = [replace(s, x=0.5, y=0.5, size=0.8) for s in many]
    reader = KNeighborsClassifier(1).fit(features(level[:200]), labels(level[:200]))
    assert reader.score(features(level[200:]), labels(level[200:])) > 0.99


def test_kinds_are_told_apart_wherever_they_lie_and_however_large_they_are(many):
    reader = KNeighborsClassifier(1).fit(features(many[:1500]), labels(many[:1500]))
    assert reader.score(features(many[1500:]), labels(many[1500:])) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_turning_a_thing_and_its_light_turns_the_picture(kind):
    for turns in (1, 2, 3):
        given = one(kind, "blue", 75.0, x=0.45, y=0.6, angle=10.0)
        x, y = (0.6, 0.55) if turns == 1 else (0.55, 0.4) if turns == 2 else (0.4, 0.45)
        turned = one(kind, "blue", 75.0 + 90 * turns, x=x, y=y, angle=10.0 + 90 * turns)
        [before], [after] = render([given], 24).int(), render([turned], 24).int()
        assert (torch.rot90(before, turns, (1, 2)) - after).abs().max() <= 1  # a rounding


def test_the_angle_is_in_degrees_counterclockwise():
    spots = []
    for angle in (0, 30):
        [shape] = outline([one("moon", angle=angle)], 128)
        y, x = (at.double().mean() for at in shape.nonzero(as_tuple=True))
        spots.append(math.degrees(math.atan2(63.5 - y, x - 63.5)))  # a moon's weight lies to its left
    assert spots[0] % 360 == pytest.approx(180, abs=2)
    assert spots[1] % 360 == pytest.approx(210, abs=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_is_as_far_right_and_down_as_x_and_y_say(kind):
    here, there = outline([one(kind, angle=7), one(kind, angle=7, x=0.5 + 5 / 64, y=0.5 - 9 / 64)], 64)
    assert (here.roll((-9, 5), (0, 1)) != there).sum() <= 2  # where the background shines through the rim


@pytest.mark.parametrize("kind", KINDS)
def test_the_area_grows_with_the_square_of_the_size(kind):
    small, large = outline([one(kind, size=0.4), one(kind, size=0.8)], 128).sum((1, 2)).tolist()
    assert large / small == pytest.approx(4, rel=0.05)
    assert 0.2 < large / (0.8 * 128) ** 2 < 0.8


def test_a_thing_lies_wholly_in_its_picture_and_fills_much_of_it(many):
    shapes = outline(many[:500], 64)
    rim = torch.ones(64, 64, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert not (shapes & rim).any()
    reach = torch.maximum(shapes.any(1).sum(1), shapes.any(2).sum(1)) / 64
    assert reach.min() > 0.42
    assert reach.max() <= 1


def test_every_thing_stands_out_from_its_background(many):
    pixels, inside = render(many, 16).float() / 255, outline(many, 16)
    mean = [(pixels * m[:, None]).sum((2, 3)) / m.sum((1, 2))[:, None] for m in (inside, ~inside)]
    assert (mean[0] - mean[1]).norm(dim=1).min() > 0.4


def test_pixels_use_the_whole_range_and_are_not_clipped(many):
    pixels = render(many, 16)
    assert pixels.min() < 25
    assert pixels.max() > 245
    assert ((pixels == 0) | (pixels == 255)).float().mean() < 0.001
    assert 90 < pixels.float().mean() < 165
    for channel in pixels.float().transpose(0, 1):
        assert channel.std() > 60


@pytest.mark.parametrize("resolution", [16, 32])
def test_twice_the_resolution_shows_the_same_picture(resolution, many):
    fine = torch.nn.functional.avg_pool2d(render(many[:200], 2 * resolution).float(), 2)
    apart = (fine - render(many[:200], resolution).float()).abs()
    assert apart.mean() < 1.5
    assert apart.amax((1, 2, 3)).median() < 50


@pytest.mark.parametrize("word", [{"kind": "balll"}, {"colour": "rde"}])
def test_an_unknown_kind_or_colour_is_refused_with_the_known_ones(word):
    with pytest.raises(ValueError, match=r"kinds are ball, box, .*; colours red, orange"):
        one(**{"kind": "ball"} | word)

"""Sets of images: made once, and given back by a record pixel for pixel."""

import pytest
import torch
import torch.nn.functional as F
from forks import executed

from guidebook.runs.recording import record
from guidebook.runs.run import SHEET, NotRecorded, open_run, opened
from guidebook.sampling.sets import image_set, mosaic, sheet


def noise(n: int, channels: int, height: int = 8, width: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, height, width), generator=rng, dtype=torch.uint8)


@pytest.fixture
def run(runs, tiny):
    return open_run(tiny)


def test_a_set_is_made_once(run):
    made = []

    def make():
        made.append(1)
        return noise(12, 1), {"labels": list(range(12))}

    first, again = (image_set(run, "some", {"w": 1}, make) for _ in range(2))
    assert len(made) == 1
    assert torch.equal(first.images, again.images)
    assert first.facts == again.facts
    assert again.facts | {"w": 1, "n": 12, "shape": [1, 8, 8]} == again.facts
    assert again.labels.tolist() == list(range(12))


def test_another_spec_or_name_is_another_set(run):
    made = []

    def make():
        made.append(1)
        return noise(10 + len(made), 1), {"labels": [0] * 20}

    sizes = [len(image_set(run, n, s, make).images) for n, s in (("a", {"w": 1}), ("a", {"w": 2}), ("b", {"w": 1}))]
    assert sizes == [11, 12, 13]


def test_a_set_that_failed_in_the_making_leaves_nothing(run):
    def fail():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        image_set(run, "some", {}, fail)
    assert len(image_set(run, "some", {}, lambda: (noise(3, 1), {"labels": [0] * 3})).images) == 3
    assert len(list((run.path / "samples").iterdir())) == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("n", "classes"), [(1, 1), (7, 5), (10, 10), (23, 9), (SHEET, 10), (SHEET + 37, 10), (300, 27), (310, 100)]
)
def test_a_record_gives_back_the_first_images_pixel_for_pixel(run, channels, n, classes):
    images, labels, most = (
        noise(n, channels, 6, 9),
        [i % classes for i in range(n)],
        max(SHEET, min(10, 300 // classes) * classes),
    )
    image_set(run, "some", {"n": n}, lambda: (images, {"labels": labels}))
    executed(run.path)
    folder = record(run)
    kept = opened(folder)
    assert kept.recorded
    assert not list(folder.rglob("*.safetensors"))
    found = image_set(kept, "some", {"n": n}, lambda: pytest.fail("made again"))
    assert torch.equal(found.images, images[:most])
    assert found.labels.tolist() == labels[:most]
    assert found.facts["n"] == n


def test_a_record_that_takes_the_place_of_another_setting_says_so(run, tiny, caplog):
    other = open_run(tiny.replace(train={"lr": 0.5}))
    for one in (run, other):
        executed(one.path)
    record(run)
    record(run)
    assert not caplog.messages
    record(other)
    assert caplog.messages == [
        f"{other.path.name} replaces a record of other parameters: train.lr 0.5 for {tiny.train.lr:g}"
    ]


def test_a_record_makes_no_set(run):
    executed(run.path)
    kept = opened(record(run))
    with pytest.raises(NotRecorded, match="image set other"):
        image_set(kept, "other", {"w": 1}, lambda: pytest.fail("made"))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_the_images_row_by_row(channels):
    images = noise(7, channels, 4, 5)
    grid = torch.from_numpy(sheet(images, columns=3)).reshape(3 * 4, 3 * 5, channels)
    for i, image in enumerate(images):
        y, x = 4 * (i // 3), 5 * (i % 3)
        assert torch.equal(grid[y : y + 4, x : x + 5], image.permute(1, 2, 0))
    assert (grid[8:, 5:] == 0).all()


@pytest.mark.parametrize("side", [8, 16, 28, 32])
def test_small_images_are_enlarged_as_torch_does_it(side):
    images = noise(11, 3, side, side)
    large = F.interpolate(images.float(), scale_factor=round(56 / side), mode="bicubic").round().clamp(0, 255)
    far = mosaic(images, columns=11, gap=1)[:, : large.shape[-1]].astype(int) - large[0].permute(1, 2, 0).int().numpy()
    assert abs(far).max() <= 1
    assert (far != 0).mean() < 0.01

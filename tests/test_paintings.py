"""Drawn paintings: a painting is a function of its arguments, shows its style, and comes in files like the hub's."""

import io
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Features, Image, load_dataset
from PIL import Image as Pillow
from PIL import JpegImagePlugin

from guidebook.config.datasets import CATALOG
from guidebook.data.decode import BadImage, decode
from guidebook.data.drawn import paintings as module
from guidebook.data.drawn.paintings import ARTISTS, GENRES, GRAIN, LONG, SHORT, STYLES, drawn, encode, paint
from guidebook.runs import manifest

N, FILES, GROUP = 1107, 4, 30  # of a set that is written: rows enough for each way to break one
BROKEN = {200: "truncated", 600: "neither PNG nor JPEG", 1000: "truncated"}


def small(style: int, seed: int, number: int) -> np.ndarray:
    """In the place of a painting, where only its file matters: (16, 24, 3), other pixels for other arguments."""
    rng = np.random.default_rng([style, seed, number])
    return np.asarray(Pillow.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((24, 16)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "paint", small)
        return drawn(tmp_path_factory.mktemp("paintings"), N, 7, FILES, GROUP)


@pytest.fixture(scope="module")
def rows(written) -> list[dict]:
    return [row for file in sorted(written.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def opened(raw: bytes) -> JpegImagePlugin.JpegImageFile:
    return Pillow.open(io.BytesIO(raw))


def test_a_painting_is_a_function_of_its_arguments_alone():
    before, ours = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = [paint(*a) for a in ((3, 0, 5), (4, 0, 5), (3, 1, 5), (3, 0, 6))]
    assert all(np.array_equal(paint(*a), p) for a, p in zip(((3, 0, 6), (3, 0, 5)), (first[3], first[0]), strict=True))
    assert len({p.tobytes() for p in first}) == 4
    assert len({module._sketch(*a).tobytes() for a in ((3, 0, 5), (4, 0, 5), (3, 1, 5), (3, 0, 6))}) == 4
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), ours)


def test_there_is_no_style_27():
    with pytest.raises(IndexError):
        paint(len(STYLES), 0, 0)


def test_sides_are_as_long_as_the_hubs():
    sizes = np.array([module._sketch(STYLES.index("Minimalism"), 0, i).size for i in range(300)]) * 4
    assert np.allclose(sizes.mean(0), (1640, 1627), atol=40)
    long, short = sizes.max(1), sizes.min(1)
    assert (long.min(), long.max()) == pytest.approx(LONG, abs=30)
    assert (short.min(), short.max()) == pytest.approx(SHORT, abs=30)
    assert 1200 <= sizes.min() <= sizes.max() <= 2100
    assert 0.4 < (sizes[:, 0] > sizes[:, 1]).mean() < 0.6


@pytest.mark.parametrize("style", [0, 9, 14, 25])
def test_a_painting_is_its_sketch_enlarged_with_grain_on_top(style):
    pixels, sketch = paint(style, 2, 3), module._sketch(style, 2, 3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4 * sketch.height, 4 * sketch.width, 3)
    enlarged = np.asarray(sketch.resize((4 * sketch.width, 4 * sketch.height), Pillow.Resampling.BILINEAR)).astype(int)
    grain = pixels - enlarged
    assert grain.min() >= -1  # a rounding
    assert grain.max() <= GRAIN + 1
    assert grain.std() > 3
    assert np.abs(np.corrcoef(grain[:, :-1, 0].ravel(), grain[:, 1:, 0].ravel())[0, 1]) < 0.9  # fine


def test_no_sketch_is_so_bright_that_the_grain_overflows():
    assert max(np.asarray(module._sketch(s, 5, i)).max() for s in range(27) for i in range(3)) <= 255 - GRAIN


def test_files_are_as_large_as_the_hubs():
    sizes = [len(encode(paint(s, 1, s))) / 1000 for s in range(len(STYLES))]
    assert 350 < np.mean(sizes) < 450
    assert min(sizes) > 200
    assert max(sizes) < 650


@pytest.mark.parametrize("progressive", [False, True])
def test_files_are_jpeg_of_quality_80_with_halved_colour(progressive):
    pixels = small(0, 0, 0)
    expected = io.BytesIO()
    Pillow.fromarray(pixels).save(expected, "JPEG", quality=80)
    image = opened(encode(pixels, progressive))
    assert image.quantization == opened(expected.getvalue()).quantization
    assert JpegImagePlugin.get_sampling(image) == 2  # Pillow's number for 4:2:0
    assert bool(image.info.get("progressive")) == progressive
    assert np.array_equal(np.asarray(image), np.asarray(opened(encode(pixels))))


def test_the_styles_are_the_hubs_in_the_order_of_their_labels():
    assert len(STYLES) == 27
    assert list(STYLES) == sorted(STYLES)
    spelled = [name.replace(" ", "_").replace("-", "_").lower() for name in CATALOG["paintings"].classes]
    assert spelled == [name.lower() for name in STYLES]  # the hub writes "Action_painting", captions "Action Painting"
    assert (STYLES[0], STYLES[12], STYLES[26]) == ("Abstract_Expressionism", "Impressionism", "Ukiyo_e")


def test_a_style_is_recognised_in_16_by_16_pixels():
    shrunk = [[module._sketch(s, 0, i).resize((16, 16), Pillow.Resampling.BOX) for i in range(9)] for s in range(27)]
    pictures = np.array(shrunk).reshape(27, 9, -1).astype(float)
    means, others = pictures[:, :5].mean(1), pictures[:, 5:]
    nearest = ((others[:, :, None] - means) ** 2).sum(3).argmin(2)
    assert (nearest == np.arange(27)[:, None]).mean() > 0.9
    apart = np.abs(pictures[:, 1:] - pictures[:, :1]).mean((1, 2))
    assert apart.min() > 4  # but no style is one picture


def test_the_schema_is_what_datasets_writes(written):
    labels = {"artist": ARTISTS, "genre": GENRES, "style": STYLES}
    features = Features({"image": Image()} | {k: ClassLabel(names=list(v)) for k, v in labels.items()})
    for file in written.glob("*.parquet"):
        schema = pq.read_schema(file)
        assert schema.equals(features.arrow_schema)
        assert schema.metadata[b"huggingface"] == features.arrow_schema.metadata[b"huggingface"]
        assert Features.from_arrow_schema(schema) == features


def test_datasets_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "paint", small)
    files = str(drawn(tmp_path / "set", 27, 7, 2, 5) / "*.parquet")
    data = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    assert data.features["style"].names == list(STYLES)
    assert sorted(data["style"]) == list(range(27))
    assert data[0]["image"].size == (24, 16)


def test_files_have_the_hubs_names_and_row_groups_of_the_asked_size(written):
    names = [f"train-{k:05}-of-{FILES:05}.parquet" for k in range(FILES)]
    assert sorted(manifest.verify(written, "")) == names
    for name in names:
        meta = pq.read_metadata(written / name)
        groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        assert set(groups[:-1]) == {GROUP}
        assert 0 < groups[-1] <= GROUP
        assert abs(meta.num_rows - N / FILES) < 1


def test_each_row_is_the_painting_that_its_path_names(rows):
    assert len({row["image"]["path"] for row in rows}) == len(rows) == N
    for i, row in enumerate(rows):
        word, number = row["image"]["path"].removesuffix(".jpg").rsplit("-", 1)
        assert word == STYLES[row["style"]].lower()
        assert len(number) == 6
        if i not in BROKEN:
            assert row["image"]["bytes"] == encode(small(row["style"], 7, int(number)), i % 50 == 25)


def test_one_row_in_400_is_broken_and_refused_and_all_others_are_taken(rows):
    for i, row in enumerate(rows):
        if i in BROKEN:
            with pytest.raises(BadImage, match=BROKEN[i]):
                decode(row["image"]["bytes"], 3)
        else:
            assert decode(row["image"]["bytes"], 3).shape == (3, 16, 24)


def test_one_file_in_50_is_progressive(rows):
    progressive = [
        i for i, row in enumerate(rows) if i not in BROKEN and "progressive" in opened(row["image"]["bytes"]).info
    ]
    assert progressive == list(range(25, N, 50))


def test_a_real_painting_cut_in_half_is_refused(monkeypatch):
    monkeypatch.setattr(module, "BROKEN", (1, 0))
    for row in (75, 0, 1, 2):  # 75 is progressive, and cut in half as 0 is
        with pytest.raises(BadImage):
            decode(module._row(row, 6, 0, 0)["image"]["bytes"], 3)


def test_styles_are_as_frequent_as_each_other_and_lie_in_blocks(rows):
    styles = [row["style"] for row in rows]
    assert Counter(styles) == dict.fromkeys(range(27), N // 27)
    for third in np.split(np.array(styles), 3):
        assert len(set(third.tolist())) == 27
        assert (np.diff(third) >= 0).all()


def test_another_seed_writes_other_paintings_and_the_same_seed_the_same(tmp_path, written, rows, monkeypatch):
    monkeypatch.setattr(module, "paint", small)
    for seed in (7, 8):
        folder = drawn(tmp_path, N, seed, FILES, GROUP)
        same = [f.read_bytes() == (written / f.name).read_bytes() for f in sorted(folder.glob("*.parquet"))]
        assert same == [seed == 7] * FILES
    other = pq.read_table(folder / f"train-00000-of-{FILES:05}.parquet").to_pylist()
    paths = [row["image"]["path"] for row in other]
    assert paths != [row["image"]["path"] for row in rows[: len(other)]]
    assert other[0]["image"]["bytes"] == encode(small(other[0]["style"], 8, int(paths[0][-10:-4])))


def test_the_genre_is_that_of_the_motif(rows):
    genres = {STYLES[row["style"]]: GENRES[row["genre"]] for row in rows}
    assert {row["artist"] for row in rows} == {0}
    for style, genre in (("Baroque", "portrait"), ("Ukiyo_e", "landscape"), ("New_Realism", "cityscape"),
                         ("Contemporary_Realism", "still_life"), ("Minimalism", "abstract_painting")):  # fmt: skip
        assert genres[style] == genre


def test_a_set_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fails(style: int, seed: int, number: int) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "paint", fails)
    with pytest.raises(OSError, match="the set of drawn paintings was not written"):
        drawn(tmp_path, 27, 0, 1)
    assert list(tmp_path.iterdir()) == []

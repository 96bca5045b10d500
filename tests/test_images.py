"""Images and their order: nothing lost, nothing repeated, nothing guessed."""

import io
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from guidebook.data.images import DataError, from_uint8, load, order, to_uint8
from guidebook.params import Data

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**63 - 1)


@given(SIZES, SEEDS, st.integers(0, 50))
def test_every_epoch_is_a_permutation(n, seed, epoch):
    assert sorted(order(n, seed, epoch * n, n).tolist()) == list(range(n))


@given(SIZES, SEEDS, st.integers(0, 200), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_the_stream_does_not_depend_on_how_it_is_cut(n, seed, start, counts):
    parts, at = [], start
    for count in counts:
        parts.append(order(n, seed, at, count))
        at += count
    assert [len(p) for p in parts] == counts
    assert torch.equal(torch.cat(parts), order(n, seed, start, sum(counts)))


@given(SIZES, SEEDS, st.integers(0, 90), st.integers(1, 100))
def test_a_batch_over_several_epochs_is_that_part_of_the_stream(n, seed, start, count):
    stream = torch.cat([order(n, seed, epoch * n, n) for epoch in range((start + count) // n + 1)])
    assert torch.equal(order(n, seed, start, count), stream[start : start + count])


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(order(100, seed, epoch * 100, 100).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(1000, 12345, 0, 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0), (-3.7, 11.1), (0.0, 1e-3)]
)
def test_pixels_survive_the_way_to_the_models_range_and_back(low, high):
    pixels = torch.arange(256, dtype=torch.uint8)
    values = from_uint8(pixels, low, high)
    assert torch.equal(to_uint8(values, low, high), pixels)
    assert values[0].item() == pytest.approx(low)
    assert values[-1].item() == pytest.approx(high)


def test_values_out_of_range_become_black_or_white_and_the_rest_is_rounded():
    x = torch.tensor([-9.0, -1.001, 1.001, 9.0, 0.0, -1 + 2 * 100.4 / 255, -1 + 2 * 100.6 / 255])
    assert to_uint8(x, -1.0, 1.0).tolist() == [0, 0, 255, 255, 128, 100, 101]


def data(name: str, **changes) -> Data:
    fields = {"name": name, "resolution": 8, "range": (0.0, 1.0), "caption": "{label}", "limit": None}
    return Data(**fields | changes)


@pytest.fixture(autouse=True)
def forget():
    """`load` remembers what it gave; here the files change."""
    load.cache_clear()
    yield
    load.cache_clear()


def test_digits_are_1437_and_360_images_of_every_class():
    images = load(data("digits"))
    for split, n in ((images.train, 1437), (images.test, 360)):
        assert split.images.shape == (n, 1, 8, 8)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (n,)
        assert torch.bincount(split.labels, minlength=10).min() > n / 15
    assert images.source == "scikit-learn"


def test_the_two_splits_of_digits_hold_every_image_of_the_source_once():
    raw, images = load_digits(), load(data("digits"))
    pixels = torch.cat([images.train.images, images.test.images]).flatten(1).numpy()
    labels = torch.cat([images.train.labels, images.test.labels]).numpy()
    ours = sorted((row.tobytes(), label) for row, label in zip(pixels, labels, strict=True))
    source = (raw.images * 255 / 16).round().astype(np.uint8).reshape(len(raw.target), -1)
    assert ours == sorted((row.tobytes(), label) for row, label in zip(source, raw.target, strict=True))


def test_a_limit_keeps_the_first_images_of_each_split():
    whole, few = load(data("digits")), load(data("digits", limit=50))
    for a, b in ((few.train, whole.train), (few.test, whole.test)):
        assert torch.equal(a.images, b.images[:50])
        assert torch.equal(a.labels, b.labels[:50])


def test_the_fingerprint_is_that_of_the_pixels():
    assert load(data("digits")).fingerprint == load(data("digits", caption="other {label}")).fingerprint
    assert load(data("digits")).fingerprint != load(data("digits", limit=50)).fingerprint
    assert load(data("digits")).fingerprint != load(data("digits", resolution=16)).fingerprint


def test_resizing_keeps_a_constant_image_and_the_mean_of_others():
    small, large = (
        load(data("digits", limit=100)).train.images,
        load(data("digits", limit=100, resolution=16)).train.images,
    )
    assert large.shape == (100, 1, 16, 16)
    assert (large.float().mean((1, 2, 3)) - small.float().mean((1, 2, 3))).abs().max() < 6  # of 255


# The hub's schema: an image is a struct of its file's bytes and its path, the label a class index.
SCHEMA = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(folder, split: str, files: list[bytes], labels: list[int], shards: int = 1, names=("image", "label")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(shards):
        part = slice(k * len(files) // shards, (k + 1) * len(files) // shards)
        rows = {"image": [{"bytes": b, "path": None} for b in files[part]], "label": labels[part]}
        table = pa.table(rows, schema=SCHEMA).select(list(names))
        pq.write_table(table, folder / f"{split}-{k:05d}-of-{shards:05d}.parquet")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """40 training and 10 test images of noise, 28×28, with their labels, in `$GUIDEBOOK_DATA/mnist`."""
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 40), ("test", 10)):
        made[split] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n).tolist()
    return tmp_path / "mnist", made


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("names", [("image", "label"), ("label", "image")])
def test_local_parquet_gives_back_what_was_written(written, shards, names):
    folder, made = written
    for split, (pixels, labels) in made.items():
        write(folder, split, [png(p) for p in pixels], labels, shards, names)
    images = load(data("mnist", resolution=28))
    assert images.source == "local parquet"
    for split, (pixels, labels) in ((images.train, made["train"]), (images.test, made["test"])):
        np.testing.assert_array_equal(split.images[:, 0].numpy(), pixels)
        assert split.labels.tolist() == labels


def test_local_parquet_is_read_at_another_resolution_and_with_a_limit(written):
    folder, made = written
    for split, (pixels, labels) in made.items():
        write(folder, split, [png(p) for p in pixels], labels)
    images = load(data("mnist", resolution=14, limit=5))
    assert images.train.images.shape == images.test.images.shape == (5, 1, 14, 14)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_file_that_is_no_whole_image_is_refused_by_its_row(written, damage):
    folder, made = written
    for split, (pixels, labels) in made.items():
        files = [png(p) for p in pixels]
        if split == "train":
            files[23] = {"cut": files[23][: len(files[23]) // 2], "empty": b"", "text": b"<svg/>"}[damage]
        write(folder, split, files, labels, shards=3)
    with pytest.raises(DataError, match="mnist/train row 23 is not a whole PNG or JPEG"):
        load(data("mnist", resolution=28))


def test_a_missing_split_is_named(written):
    folder, made = written
    pixels, labels = made["train"]
    write(folder, "train", [png(p) for p in pixels], labels)
    with pytest.raises(DataError, match=r"no test-\*\.parquet in \$GUIDEBOOK_DATA/mnist"):
        load(data("mnist", resolution=28))


def test_without_data_it_fails_soon_and_says_what_to_do(tmp_path):
    program = (
        "from guidebook.data.images import load\nfrom guidebook.params import Data\n"
        "load(Data(name='mnist', resolution=28, range=(0.0, 1.0), caption='{label}', limit=None))"
    )
    closed = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | closed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    for part in (
        "DataError: data set mnist",
        "$GUIDEBOOK_DATA/mnist/train-*.parquet",
        "ylecun/mnist",
        "data.name=digits",
    ):
        assert part in said

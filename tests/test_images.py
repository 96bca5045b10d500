"""Images and their order: nothing lost, nothing repeated, nothing guessed."""

import hashlib
import io
import os
import subprocess
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from guidebook.config.datasets import CATALOG
from guidebook.config.params import Data
from guidebook.data.decode import decode
from guidebook.data.drawn.scenes import KINDS, random_scenes, render
from guidebook.data.files import Files, available, located
from guidebook.data.images import DataError, from_uint8, load, to_uint8
from guidebook.data.order import in_files, order

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


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 15), SEEDS, st.integers(0, 9))
def test_in_file_order_an_epoch_is_file_after_file_of_images_sorted_by_class(labels, rows, seed, epoch):
    labels, n = torch.tensor(labels), len(labels)
    seen = order(n, seed, epoch * n, n, in_files(labels, rows)).tolist()
    assert sorted(seen) == list(range(n))
    files = [set(f.tolist()) for f in torch.argsort(labels, stable=True).split(rows)]
    while seen:
        (file,) = (f for f in files if seen[0] in f)
        assert set(seen[: len(file)]) == file
        seen = seen[len(file) :]


def test_files_and_the_images_of_each_are_shuffled_anew_in_every_epoch():
    orders = [order(100, 0, epoch * 100, 100, in_files(torch.arange(100), 10)) for epoch in range(5)]
    assert len({tuple(o[::10].div(10, rounding_mode="floor").tolist()) for o in orders}) == 5
    assert len({tuple(o[(o >= 40) & (o < 50)].tolist()) for o in orders}) == 5


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
    fields = {"name": name, "resolution": 8, "range": (0.0, 1.0), "caption": "{label}", "limit": None, "flips": False}
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


def many(folder, n: int, bad: dict[int, bytes | None]) -> tuple[np.ndarray, list[int]]:
    """Writes n training images, of which some rows hold something else, and 10 test images; the pixels and labels."""
    rng = np.random.default_rng(1)
    pixels, labels = rng.integers(0, 256, (n, 4, 4), dtype=np.uint8), rng.integers(0, 10, n).tolist()
    write(folder, "train", [bad.get(i, png(p)) for i, p in enumerate(pixels)], labels, shards=3)
    write(folder, "test", [png(p) for p in pixels[:10]], labels[:10])
    return pixels, labels


def test_a_bad_image_is_skipped_with_its_label_and_named(written, caplog):
    folder, _ = written
    pixels, labels = many(folder, 2000, {17: png(np.zeros((4, 4), np.uint8))[:-30], 1999: None})
    images = load(data("mnist", resolution=4))
    left = [i for i in range(2000) if i not in (17, 1999)]
    np.testing.assert_array_equal(images.train.images[:, 0].numpy(), pixels[left])
    assert images.train.labels.tolist() == [labels[i] for i in left]
    assert len(images.test) == 10
    assert [s.partition(":")[0] for s in images.skipped] == ["mnist/train row 17", "mnist/train row 1999"]
    assert images.skipped[0].startswith("mnist/train row 17: truncated")
    [said] = caplog.messages
    assert said.startswith(
        "mnist/train: 2 of 2,000 images (0.10%) cannot be read and are skipped: mnist/train row 17: "
    )


@pytest.mark.parametrize("limit", [None, 5])
def test_beyond_a_set_share_of_bad_images_nothing_is_loaded(written, limit):
    folder, _ = written
    many(folder, 2000, dict.fromkeys(range(100, 2000, 200), b"<html>"))
    with pytest.raises(DataError) as caught:
        load(data("mnist", resolution=4, limit=limit))
    said = str(caught.value)
    assert said.startswith("mnist/train: 10 of 2,000 images (0.50%) cannot be read, 0.10% may be skipped: ")
    assert "mnist/train row 100: neither PNG nor JPEG: begins with b'<html>'; mnist/train row 300: " in said
    assert len(said.splitlines()) == 1
    assert len(said) < 600


def test_of_millions_of_empty_rows_some_are_read(written, monkeypatch):
    folder, _ = written
    many(folder, 50, {})
    nothing = pa.table({"image": pa.nulls(2_000_000, SCHEMA.field("image").type), "label": pa.array([0] * 2_000_000)})
    [file] = folder.glob("test-*.parquet")
    pq.write_table(nothing, file)
    tried = []
    monkeypatch.setattr("guidebook.data.images.decode", lambda *a: tried.append(1) or decode(*a))
    with pytest.raises(
        DataError, match=r"mnist/test: 2,001 of 2,000,000 images \(0\.10%\) cannot be read, 0\.10% may be"
    ):
        load(data("mnist", resolution=4))
    assert len(tried) == 50 + 2001


def test_a_limit_counts_the_images_that_are_left(written):
    folder, _ = written
    pixels, _ = many(folder, 2000, {1: b""})
    images = load(data("mnist", resolution=4, limit=3))
    np.testing.assert_array_equal(images.train.images[:, 0].numpy(), pixels[[0, 2, 3]])


def test_an_image_of_another_size_is_a_bad_one(written):
    folder, _ = written
    many(folder, 1000, {0: png(np.zeros((5, 6), np.uint8))})
    images = load(data("mnist", resolution=4))
    assert images.skipped == ("mnist/train row 0: 6 × 5 pixels, where most have 4 × 4",)
    assert len(images.train) == 999


def test_nothing_is_skipped_where_nothing_is_bad(written, caplog):
    folder, _ = written
    many(folder, 50, {})
    assert load(data("mnist", resolution=4)).skipped == ()
    assert load(data("digits")).skipped == ()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "said", ["[1", "[]", '{"info": {"features": [1]}}', '{"info": {"features": {"label": {"names": 3}}}}']
)
def test_damaged_metadata_of_the_hub_say_nothing(written, said):
    folder, _ = written
    many(folder, 40, {})
    for file in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": said}), file)
    assert len(load(data("mnist", resolution=4)).train) == 40


@pytest.mark.parametrize(
    ("label", "refusal"),
    [(None, "no label"), (10, "label 10; allowed are 0 to 9, for 10 classes"), (-1, "label -1; allowed are 0 to 9")],
)
def test_a_row_without_label_or_of_no_class_is_refused(written, label, refusal):
    folder, _ = written
    many(folder, 50, {})
    write(folder, "test", [png(np.zeros((4, 4), np.uint8))] * 3, [1, label, 2])
    with pytest.raises(DataError, match=f"mnist/test row 1 has {refusal}"):
        load(data("mnist", resolution=4))


BAD_TABLES = {
    "text": b"<!doctype html>",
    "cut": None,
    "no image column": pa.table({"label": [1]}),
    "no label column": pa.table({"image": [{"bytes": b"", "path": None}]}),
    "bytes outside a struct": pa.table({"image": [b"x"], "label": [1]}),
    "labels in words": pa.table({"image": [{"bytes": b"", "path": None}], "label": ["one"]}),
    "no rows": SCHEMA.empty_table(),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_parquet_file_that_is_not_what_the_hub_has_is_refused_in_one_line(written, case):
    folder, _ = written
    many(folder, 50, {})
    [file] = folder.glob("test-*.parquet")
    if isinstance(table := BAD_TABLES[case], pa.Table):
        pq.write_table(table, file)
    else:
        file.write_bytes(table or file.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"test-00000-of-00001\.parquet is not a whole|mnist/test holds no images"
    ) as caught:
        load(data("mnist", resolution=4))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_split_is_named(written):
    folder, made = written
    pixels, labels = made["train"]
    write(folder, "train", [png(p) for p in pixels], labels)
    with pytest.raises(DataError, match=r"none of the test-\*\.parquet in \$GUIDEBOOK_DATA/mnist"):
        load(data("mnist", resolution=28))


def test_without_data_it_fails_soon_and_says_what_to_do(tmp_path):
    program = (
        "from guidebook.data.images import load\nfrom guidebook.config.params import Data\n"
        "load(Data(name='mnist', resolution=28, range=(0.0, 1.0), caption='{label}', limit=None, flips=False))"
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
    assert "huggingface_hub" not in done.stderr  # no traceback of the hub's
    for part in (
        "DataError: data set mnist",
        "$GUIDEBOOK_DATA/mnist/train-*.parquet",
        "ylecun/mnist",
        "guidebook fetch",
        "data.name=digits",
    ):
        assert part in said


def test_shards_that_nobody_has_are_told_with_the_ways_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"huggan/wikiart .*`guidebook fetch .*data.name=paintings") as caught:
        load(data("wikiart", resolution=4))
    assert len(str(caught.value).splitlines()) == 1


# The hub's cache, without the hub: blobs by their hash and links to them under the commit, as its client writes them


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """`cache(split, n, shards, …)` puts a split of n images into the cache under a commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "datasets--ylecun--mnist"

    def put(split, n=20, shards=1, revision=CATALOG["mnist"].revision):
        rng = np.random.default_rng(n)
        pixels = rng.integers(0, 256, (n, 4, 4), dtype=np.uint8)
        write(tmp_path / "made", split, [png(p) for p in pixels], [i % 10 for i in range(n)], shards)
        (place / "blobs").mkdir(parents=True, exist_ok=True)
        links = place / "snapshots" / revision / "mnist"
        links.mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "made").glob(f"{split}-*.parquet"):
            blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            file.rename(blob)
            (links / file.name).symlink_to(os.path.relpath(blob, links))
        return links

    return put


@pytest.mark.parametrize("shards", [1, 3])
def test_what_the_hub_left_in_its_cache_is_read_without_network(cache, shards):
    assert not available("mnist")
    cache("train", 30, shards)
    assert not available("mnist")
    cache("test", 20)
    assert available("mnist")
    images = load(data("mnist", resolution=4))
    assert images.source == "hub"
    assert (len(images.train), len(images.test)) == (30, 20)
    assert images.train.labels.tolist() == [i % 10 for i in range(30)]


@pytest.mark.parametrize("damage", ["a shard is missing", "a blob is missing", "another revision"])
def test_a_cache_that_is_not_complete_is_not_available(cache, damage):
    links = cache("train", 30, 3, **({"revision": "0" * 40} if damage == "another revision" else {}))
    cache("test")
    if damage == "a shard is missing":
        (links / "train-00001-of-00003.parquet").unlink()
    elif damage == "a blob is missing":
        (links / "train-00001-of-00003.parquet").resolve().unlink()
    assert not available("mnist")
    with pytest.raises(DataError, match="guidebook fetch") as caught:
        load(data("mnist", resolution=4))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_in_the_cache_is_asked_of_the_hub_at_the_pinned_commit(cache, monkeypatch):
    asked = []

    def download(repo, **what):
        asked.append((repo, what))
        cache("test")
        return str(cache("train").parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    images = load(data("mnist", resolution=4))
    assert (images.source, len(images.train)) == ("hub", 20)
    pinned = {
        "repo_type": "dataset",
        "revision": CATALOG["mnist"].revision,
        "allow_patterns": ["*train-*.parquet", "*test-*.parquet"],
    }
    assert asked == [("ylecun/mnist", pinned)]
    load.cache_clear()
    load(data("mnist", resolution=4))
    assert len(asked) == 1


@pytest.mark.parametrize("error", [OSError("no space\nleft"), RuntimeError("<html>"), TimeoutError()])
def test_a_download_that_fails_says_what_to_do_in_one_line(cache, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(DataError, match=r"guidebook fetch .*\$GUIDEBOOK_DATA/mnist, ") as caught:
        load(data("mnist", resolution=4))
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__context__ is None


def test_a_streamed_set_stays_on_the_hub_until_it_is_fetched(tmp_path, monkeypatch):
    """WikiArt has no pinned revision: what the hub gives, or the cache calls its newest, is noted."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place, names = tmp_path / "datasets--huggan--wikiart", ["data/train-0.parquet", "README.md", "data/train-1.parquet"]
    siblings = [types.SimpleNamespace(rfilename=name) for name in names]
    info = types.SimpleNamespace(sha="5" * 40, siblings=siblings)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: info)
    addresses = [f"hf://datasets/huggan/wikiart@{'5' * 40}/data/train-{i}.parquet" for i in (0, 1)]
    assert located("wikiart") == Files("hub, streamed", addresses, [], "5" * 40)

    def download(repo, **what):
        assert (repo, what["allow_patterns"]) == ("huggan/wikiart", ["*train-*.parquet"])
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("6" * 40)
        (place / "snapshots" / ("6" * 40)).mkdir(parents=True)
        (place / "snapshots" / ("6" * 40) / "train-0.parquet").touch()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    there = Files("hub", [place / "snapshots" / ("6" * 40) / "train-0.parquet"], [], "6" * 40)
    assert located("wikiart", download=True) == there
    assert located("wikiart") == there


def test_embedded_and_local_sets_are_available(written, cache):
    folder, made = written
    assert available("digits")
    for split, (pixels, labels) in made.items():
        assert not available("mnist")
        write(folder, split, [png(p) for p in pixels], labels, shards=2)
    assert available("mnist")
    (folder / "test-00001-of-00002.parquet").unlink()
    assert not available("mnist")
    with pytest.raises(
        DataError, match=r"only test-00000-of-00002\.parquet of the test-\*\.parquet in \$GUIDEBOOK_DATA"
    ):
        load(data("mnist", resolution=28))


def test_asking_what_is_available_imports_no_torch(tmp_path):
    code = (
        "import sys\nfrom guidebook.data.files import available\navailable('mnist')\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0


# Drawn scenes


def test_scenes_are_drawn_at_the_resolution_and_no_more_than_the_limit():
    images, larger = load(data("scenes", resolution=16, limit=40)), load(data("scenes", resolution=32, limit=20))
    assert images.train.images.shape == images.test.images.shape == (40, 3, 16, 16)
    assert images.train.labels.tolist() == images.test.labels.tolist() == [*range(10)] * 4
    assert not torch.equal(images.train.images, images.test.images)
    assert torch.equal(images.train.images, render(random_scenes(40, 0), 16))  # drawn, not resized
    assert torch.equal(larger.train.images, render(random_scenes(20, 0), 32))
    assert torch.equal(larger.test.images, render(random_scenes(20, 1), 32))
    assert images.classes == KINDS
    note = CATALOG["scenes"].note + "; of each split the first 40 at most are used"
    assert (images.source, images.skipped, images.note) == ("drawn", (), note)
    assert available("scenes")


def test_a_limit_keeps_the_first_scenes_and_without_one_there_are_8000_and_2000():
    whole, few = load(data("scenes")), load(data("scenes", limit=30))
    for a, b, n in ((few.train, whole.train, 8000), (few.test, whole.test, 2000)):
        assert torch.bincount(b.labels).tolist() == [n // 10] * 10
        assert torch.equal(a.images, b.images[:30])


# CIFAR-10, whose columns have names of their own, and what is said of JPEG copies


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """`photographs(encode)` writes 30 training and 10 test images, the i-th encoded by `encode(i)`; their pixels."""
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    pixels = np.random.default_rng(2).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)

    def put(encode):
        for split, n in (("train", 30), ("test", 10)):
            write(tmp_path / "cifar10", split, [encode(i)(pixels[i]) for i in range(n)], [i % 10 for i in range(n)])
            [file] = (tmp_path / "cifar10").glob(f"{split}-*.parquet")
            pq.write_table(pq.read_table(file).rename_columns(["img", "label"]), file)
        return pixels

    return put


def test_cifar10_is_read_in_colour_from_the_columns_that_the_hub_has(photographs):
    pixels = photographs(lambda i: png)
    images = load(data("cifar10", resolution=32))
    np.testing.assert_array_equal(images.train.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.train.labels.tolist() == [*range(10)] * 3
    assert [images.classes[i] for i in (0, 1, 9)] == ["airplane", "automobile", "truck"]
    assert images.source == "local parquet"
    assert images.note == CATALOG["cifar10"].note


@pytest.mark.parametrize("limit", [None, 5])
def test_jpeg_copies_of_a_set_published_as_png_are_named_in_its_note(photographs, limit):
    photographs(lambda i: jpeg)
    said = load(data("cifar10", resolution=32, limit=limit)).note.removeprefix(CATALOG["cifar10"].note)
    assert said.startswith("; the files at hand are lossy JPEG copies")
    load.cache_clear()
    photographs(lambda i: jpeg if i in (3, 20) else png)  # of 30 training images and the first 10 as test images
    said = load(data("cifar10", resolution=32, limit=limit)).note.removeprefix(CATALOG["cifar10"].note)
    assert said.startswith("; 3 of the 40 files at hand are lossy JPEG copies")


def test_without_cifar10_the_drawn_scenes_are_proposed(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: "/nowhere")
    with pytest.raises(DataError, match=r"uoft-cs/cifar10 .* or set data\.name=scenes"):
        load(data("cifar10", resolution=32))


def test_what_the_catalog_says_of_a_set_fits_together():
    for entry in CATALOG.values():
        assert entry.stand_in or not entry.hub
        assert entry.stand_in is None or CATALOG[entry.stand_in].stand_in is None
        assert len(entry.classes) == len(set(entry.classes)) in (10, 27, 40, 100)
        assert entry.attributes == (len(entry.classes) == 40) == (entry.label == entry.classes)
        assert entry.channels in (1, 3)
        assert (entry.hub is None) == (entry.revision is None) == (entry.codec is None) or entry.window or entry.mapped
        assert entry.revision is None or (len(entry.revision) == 40 and int(entry.revision, 16))

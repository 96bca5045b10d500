"""Sets too large for memory: what the hub's parquet files hold, decoded once, row by row."""

import dataclasses
import io
import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from guidebook.config.datasets import ATTRIBUTES, CATALOG, DataError
from guidebook.config.params import load as load_params
from guidebook.config.schema import Data
from guidebook.data import cache as module
from guidebook.data.decode import decode
from guidebook.data.images import load, packed, unpacked
from guidebook.runs.artifact import PARTS
from guidebook.slurm.fetch import fetched

SIDE, TRAIN, TEST = 8, 23, 7
RNG = np.random.default_rng(0)


def file(number: int) -> bytes:
    """A JPEG of CelebA's shape, of its own colours."""
    low = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    raw = io.BytesIO()
    Image.fromarray(low).resize((18, 22), Image.BICUBIC).save(raw, "JPEG", quality=95)
    return raw.getvalue()


def written(folder, split: str, n: int, files: int, raws: list, **columns: pa.Array) -> None:
    """Parquet files as the hub has them: a struct of bytes and path, and columns beside it, five rows a row group."""
    image = [{"bytes": raw, "path": f"{i:06d}.jpg"} for i, raw in enumerate(raws)]
    table = pa.table({"image": pa.array(image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), **columns})
    folder.mkdir(exist_ok=True)
    for i in range(files):
        part = table.slice(i * n // files, (i + 1) * n // files - i * n // files)
        pq.write_table(part, folder / f"{split}-{i:05d}-of-{files:05d}.parquet", row_group_size=5)


@dataclasses.dataclass
class Hub:
    """The rows of a set of faces, and its files."""

    folder: object
    raws: dict
    attributes: dict  # by split: (N, 40) bool

    def write(self, split: str = "train", **changed) -> None:
        attributes, n = self.attributes[split], len(self.attributes[split])
        columns = {name: pa.array(attributes[:, i].tolist(), pa.bool_()) for i, name in enumerate(ATTRIBUTES)}
        columns = dict(reversed(columns.items())) | {"celeb_id": pa.array(range(n))}  # found by name, not by place
        written(self.folder, split, n, 2, self.raws[split], **columns | changed)


@pytest.fixture
def hub(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    sizes = {"train": TRAIN, "test": TEST}
    raws = {split: [file(1000 * len(split) + i) for i in range(n)] for split, n in sizes.items()}
    told = {split: RNG.random((n, 40)) < 0.4 for split, n in sizes.items()}
    made = Hub(tmp_path / "data" / "celeba", raws, told)
    for split in sizes:
        made.write(split)
    load.cache_clear()
    yield made
    load.cache_clear()


def celeba(**changes) -> Data:
    told = {"name": "celeba", "resolution": SIDE, "range": (-1.0, 1.0), "caption": None, "limit": None, "flips": True}
    return Data(**told | changes)


def mapped(hub, **changes):
    return load.__wrapped__(celeba(**changes))


def pixels(raw: bytes, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(decode(raw, 3, side).copy())


def test_rows_are_the_files_images_and_their_attributes_as_bits(hub):
    data = load(celeba())
    for split in ("train", "test"):
        found, expected = getattr(data, split), torch.from_numpy(hub.attributes[split])
        assert found.images.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
        assert torch.equal(found.images, torch.stack([pixels(raw) for raw in hub.raws[split]]))
        assert torch.equal(unpacked(found.labels, 40), expected)
        assert torch.equal(found.labels, packed(expected))
    assert (data.classes, data.source, data.skipped) == (ATTRIBUTES, "local parquet", ())


@pytest.mark.parametrize("k", [1, 40, 62])
def test_attributes_as_bits_and_back_are_the_same(k):
    attributes = torch.from_numpy(RNG.random((200, k)) < 0.5)
    numbers = packed(attributes)
    assert torch.equal(unpacked(numbers, k), attributes)
    assert numbers.tolist() == [sum(2**i for i, a in enumerate(row) if a) for row in attributes.tolist()]


def test_what_was_decoded_is_found_again(hub, monkeypatch):
    first = load(celeba())
    load.cache_clear()
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    again = load(celeba())
    assert again.fingerprint == first.fingerprint
    for split in ("train", "test"):
        assert torch.equal(getattr(again, split).images, getattr(first, split).images)


def test_classes_are_read_from_a_split_called_validation(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    told = {"name": "imagenet100", "resolution": SIDE, "range": (-1.0, 1.0), "caption": "{label}", "flips": False}
    labels = {"train": [99, 0, 7, 7, 50, 1], "validation": [3, 98]}
    for split, found in labels.items():
        raws = [file(i) for i in range(len(found))]
        written(tmp_path / "imagenet100", split, len(found), 1, raws, label=pa.array(found, pa.int64()))
    load.cache_clear()
    data = load(Data(limit=None, **told))
    load.cache_clear()
    assert data.train.labels.tolist() == labels["train"]
    assert data.test.labels.tolist() == labels["validation"]
    assert len(data.classes) == 100
    assert torch.equal(data.train.images[4], pixels(file(4)))
    written(tmp_path / "imagenet100", "train", 2, 1, [file(0)] * 2, label=pa.array([0, 100]))
    with pytest.raises(DataError, match=r"^train-00000-of-00001\.parquet row 1 has label 100; allowed are 0 to 99"):
        load(Data(limit=None, **told))


@pytest.mark.parametrize("limit", [1, 5, 8, 13, TRAIN + 9])
def test_a_limit_takes_the_first_rows_and_is_other_data(hub, limit):
    every, found = mapped(hub), mapped(hub, limit=limit)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        part, whole, n = getattr(found, split), getattr(every, split), min(limit, rows)
        assert torch.equal(part.images, whole.images[:n])
        assert torch.equal(part.labels, whole.labels[:n])
    assert (found.fingerprint == every.fingerprint) == (limit > TRAIN)


def test_another_resolution_is_other_data(hub):
    small, large = (mapped(hub, resolution=side) for side in (SIDE, 2 * SIDE))
    assert torch.equal(large.train.images[3], pixels(hub.raws["train"][3], 2 * SIDE))
    assert small.fingerprint != large.fingerprint


# Row groups are the rows 0-4, 5-9, 10, and in the second file 11-15, 16-20, 21-22.
BAD = {10: b"", 12: b"<html>", 13: b"\xff\xd8\xff", 15: None, 20: file(20)[:40], 22: b""}
SEEN_INSTEAD = {10: 11, 12: 14, 13: 14, 15: 16, 20: 21, 22: 0}  # after a split's last row comes its first


def test_a_bad_row_is_named_and_replaced_by_the_next_good_one_of_its_split(hub, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setitem(CATALOG, "celeba", dataclasses.replace(CATALOG["celeba"], bad_share=0.25))
    hub.raws["train"] = [BAD.get(i, raw) for i, raw in enumerate(hub.raws["train"])]
    hub.write()
    told, found = torch.from_numpy(hub.attributes["train"]), mapped(hub)
    places = [(0, 10) if i < 11 else (1, i - 11) for i in BAD]
    assert [name.split(": ")[0] for name in found.skipped] == [
        f"train-{k:05}-of-00002.parquet row {row}" for k, row in places
    ]
    assert "celeba: 6 of 30 images (20.00%) cannot be read and are skipped: " + found.skipped[0] in caplog.text
    for i in range(TRAIN):
        at = SEEN_INSTEAD.get(i, i)
        assert torch.equal(found.train.images[i], pixels(hub.raws["train"][at])), i
        assert torch.equal(unpacked(found.train.labels[i : i + 1], 40)[0], told[at]), i
    assert mapped(hub).skipped == found.skipped  # also when nothing is decoded
    monkeypatch.setitem(CATALOG, "celeba", dataclasses.replace(CATALOG["celeba"], bad_share=0.1))
    for _ in range(2):  # found, and decoded anew
        with pytest.raises(
            DataError, match=r"^celeba: \d of 30 images .* cannot be read, 10.00% may be skipped: train-"
        ):
            mapped(hub)
        shutil.rmtree(module.runs() / "data")


def attribute(values, kind) -> dict:
    return {"Smiling": pa.array(values, kind)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (attribute([1] * TRAIN, pa.int8()), r"Smiling is int8"),
        (attribute(["yes"] * TRAIN, pa.string()), r"Smiling is string"),
        (attribute([True] * 12 + [None] + [True] * 10, pa.bool_()), r"train-00001-of-00002.parquet row 1 has no label"),
        ({"image": pa.array([b"x"] * TRAIN)}, r"with the columns image \{bytes, path\}"),
    ],
    ids=["numbers", "words", "one is missing", "no struct"],
)  # fmt: skip
def test_columns_of_another_kind_are_refused_in_one_line(hub, changed, said):
    hub.write(**changed)
    with pytest.raises(DataError, match=said) as error:
        mapped(hub)
    assert len(str(error.value).splitlines()) == 1


def test_a_column_that_is_missing_is_refused_in_one_line(hub):
    for path in hub.folder.glob("train-*"):
        pq.write_table(pq.read_table(path).drop_columns(["Young"]), path)
    with pytest.raises(DataError, match="Young") as error:
        mapped(hub)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_all_of_its_files_is_refused(hub, split):
    (hub.folder / f"{split}-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=f"celeba: only {split}-00000-of-00002.parquet of the {split}-"):
        mapped(hub)
    (hub.folder / f"{split}-00000-of-00002.parquet").unlink()
    none = "none of the test-" if split == "test" else r"no \$GUIDEBOOK_DATA/celeba/train-"
    with pytest.raises(DataError, match=f"celeba: {none}"):
        mapped(hub)


def test_decoding_that_was_interrupted_goes_on_at_its_row_group(hub, runs, monkeypatch):
    decoded, real = [], module.decode

    def interrupted(raw, *rest):
        decoded.append(raw)
        if len(decoded) == 13:
            raise KeyboardInterrupt
        return real(raw, *rest)

    monkeypatch.setattr(module, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapped(hub)
    assert len(list(runs.glob(f"data/.decoded-*/{PARTS}/*.json"))) == 3  # of 11 rows
    before = len(decoded)
    found = mapped(hub)
    assert len(decoded) - before <= TRAIN + TEST - 12
    assert torch.equal(found.train.images, torch.stack([pixels(raw) for raw in hub.raws["train"]]))


def test_fetching_decodes_only_when_it_is_asked_to(hub, runs):
    params = load_params("celeba", "smoke").replace(data=celeba(flips=False).model_dump(), model={"vae": None})
    for asked, told, made in ((False, f"in {hub.folder}", 0), (True, "local parquet", 1)):
        assert list(fetched([params], asked)) == ["embedded: needs no download", f"celeba: {told}"]
        assert len(list(runs.glob("data/decoded-*"))) == made

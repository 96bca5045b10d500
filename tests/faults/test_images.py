"""Promise 10: a bad image is converted rightly, or counted, named and skipped up to a set share; beyond it nothing runs."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_decode import CONVERTED, CUT, REFUSED, encoded, off

from guidebook.config.params import Data
from guidebook.data.decode import BadImage, decode
from guidebook.data.images import DataError, load

ROWS = 1000
GOOD = encoded(np.arange(16, dtype=np.uint8).reshape(4, 4))
# The hub's schema. `path` is what an attacker may write there: it must never be opened.
SCHEMA = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
MNIST = Data(name="mnist", resolution=4, range=(0.0, 1.0), caption="{label}", limit=None, flips=False)


def read(root, bad: dict[int, bytes | None]):
    """What `load` makes of 1,000 training images of which some rows hold something else."""
    (root / "mnist").mkdir(exist_ok=True)
    for split, rows in (("train", [bad.get(i, GOOD) for i in range(ROWS)]), ("test", [GOOD] * 10)):
        images = [{"bytes": raw, "path": "../../secret.png"} for raw in rows]
        table = pa.table({"image": images, "label": [i % 10 for i in range(len(rows))]}, schema=SCHEMA)
        pq.write_table(table, root / "mnist" / f"{split}-00000-of-00001.parquet")
    load.cache_clear()
    return load(MNIST)


BAD = [(raw, said) for raw, said in REFUSED.values() if raw is None or isinstance(raw, bytes)]


def test_every_kind_of_bad_image_is_skipped_by_name_and_no_more_than_a_share(tmp_path, monkeypatch, tally):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path))
    (tmp_path / "secret.png").write_bytes(GOOD)
    skipped = stopped = 0
    for at, (raw, said) in enumerate(BAD):
        images = read(tmp_path, {at: raw})  # 1 in 1,000 is the share
        [named] = images.skipped
        labels = [i % 10 for i in range(ROWS) if i != at]
        skipped += named.startswith(f"mnist/train row {at}: ") and said in named and "where most have" not in named
        assert images.train.labels.tolist() == labels
        assert images.train.images.unique(dim=0).shape[0] == 1
        with pytest.raises(DataError, match=rf"mnist/train: 2 of 1,000 .* row {at}: .* row {at + 1}: ") as caught:
            read(tmp_path, {at: raw, at + 1: raw})
        stopped += len(str(caught.value).splitlines()) == 1
    n = len(BAD)
    tally(10, "bad image in a split", n, skipped, f"{n} kinds, each counted, named and skipped with its label")
    tally(10, "more bad images than the share", n, stopped, "beyond 1 in 1,000 the load stops and names the first")


def test_every_kind_of_unusual_image_is_converted_rightly(tally):
    held = sum(off(raw, expected) <= allowed for raw, expected, allowed in CONVERTED.values())
    kinds = "bit depths, palette, alpha, CMYK, progressive, interlaced, each EXIF orientation"
    tally(10, "unusual image", len(CONVERTED), int(held), f"{kinds}: equal to the pixels computed without the decoder")


def test_a_file_cut_at_any_byte_never_gives_other_pixels(tally):
    tried = held = 0
    for raw in CUT.values():
        whole = decode(raw, 3)
        for n in range(len(raw)):
            tried += 1
            try:
                held += np.array_equal(decode(raw[:n], 3), whole)
            except BadImage:
                held += 1
    tally(10, "image cut at a byte", tried, int(held), "refused, or every pixel is there")

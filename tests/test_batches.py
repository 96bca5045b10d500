"""Shards read while training goes on: every order, any start, any number of threads and processes, bad images."""

import io
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from guidebook.config.datasets import DataError
from guidebook.data.batches import Stream
from guidebook.data.cache import Cache
from guidebook.data.decode import decode
from guidebook.data.shards import Shards

SIDE, WINDOW = 4, 24
FILES, GROUPS, ROWS = 3, 3, 8  # 72 rows
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("artist", pa.int64()),
        ("style", pa.int64()),
    ]
)


def picture(number: int) -> bytes:
    """A JPEG of one colour that tells the row's number."""
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (3 * number, 255 - 3 * number, 90)).save(file, "JPEG", quality=95)
    return file.getvalue()


def written(folder, broken=(), files=FILES, rows=ROWS):
    folder.mkdir(exist_ok=True)
    number = 0
    for f in range(files):
        with pq.ParquetWriter(folder / f"train-{f:05d}-of-{files:05d}.parquet", SCHEMA) as out:
            for _ in range(GROUPS):
                lines = [
                    {
                        "image": {"bytes": b"<html>" if n in broken else picture(n), "path": "x.jpg"},
                        "artist": 0,
                        "style": n,
                    }
                    for n in range(number, number + rows)
                ]
                out.write_table(pa.Table.from_pylist(lines, schema=SCHEMA))
                number += rows
    return Shards(sorted(folder.glob("*.parquet")), "image", "style", range(1000))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("shards") / "whole")


def stream(shards, start=0, stride=1, threads=2, seed=0, bad_share=0.0, ahead=5):
    data = types.SimpleNamespace(shards=shards, cache=Cache("shards", shards, SIDE, bad_share), window=WINDOW)
    return Stream(data, seed, start, stride, threads, ahead)


def labels(shards, n, **options) -> list[int]:
    """In these shards a row's label is its number."""
    with stream(shards, **options) as opened:
        return opened.next(n)[1].tolist()


def epoch(shards, seed=0, number=0):
    return np.concatenate([w.rows for w in shards.epoch(seed, number, WINDOW)])


def test_an_epoch_sees_every_row_that_is_not_held_out_once(shards):
    wanted = [n for n in range(shards.rows) if not shards.held_out(n)]
    assert len(wanted) == shards.train_rows == 65
    for number in range(3):
        assert sorted(epoch(shards, number=number)) == wanted


def test_every_epoch_and_every_seed_has_an_order_of_its_own(shards):
    orders = [epoch(shards, seed, number).tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4
    assert epoch(shards, 1, 1).tolist() == orders[3]


def test_a_window_mixes_whole_groups_of_several_files_and_no_window_is_left_small(tmp_path):
    shards = written(tmp_path / "more", files=6)
    for number in range(4):
        windows = shards.epoch(0, number, WINDOW)
        assert [len(w.groups) for w in windows] == [3] * 6
        assert max(len({shards.groups[g].file for g in w.groups}) for w in windows) > 1
        for w in windows:
            held = {r for g in w.groups for r in range(shards.groups[g].first, shards.groups[g].first + ROWS)}
            assert set(w.rows.tolist()) <= held
            assert sorted(w.rows.tolist()) != w.rows.tolist()


def test_a_window_larger_than_the_set_is_a_global_shuffle_and_one_smaller_than_a_group_is_a_group(shards):
    assert len(shards.epoch(0, 0, 10**6)) == 1
    assert len(shards.epoch(0, 0, 1)) == FILES * GROUPS


def test_the_images_come_in_that_order_each_with_its_label_over_the_end_of_the_epoch(shards):
    with stream(shards) as opened:
        images, seen = opened.next(100)
    assert images.shape == (100, 3, SIDE, SIDE)
    assert images.dtype == torch.uint8
    assert seen.tolist() == [*epoch(shards), *epoch(shards, number=1)][:100]
    for image, label in zip(images, seen.tolist(), strict=True):
        assert torch.equal(image, torch.from_numpy(decode(picture(label), 3, SIDE).copy()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("start", [0, 1, 21, 22, 23, 64, 65, 66, 1000])
def test_any_start_and_any_number_of_threads_gives_the_same_images(shards, start, threads):
    whole = labels(shards, start + 30)
    assert labels(shards, 30, start=start, threads=threads) == whole[start:]
    assert labels(shards, 30, start=start + 1, threads=threads) != whole[start:]  # the comparison can fail


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("start", [0, 30])
def test_processes_share_the_order(shards, processes, start):
    together = labels(shards, start + 30 * processes)[start:]
    for rank in range(processes):
        assert labels(shards, 30, start=start + rank, stride=processes) == together[rank::processes]


def test_one_window_is_held_and_reading_the_next_one_keeps_pace(shards, monkeypatch):
    held, counts = [], []
    real = Stream._read

    def read(self, window, rows):
        held.append(rows)
        for _ in real(self, window, rows):
            counts.append(sum(row is not None for h in held for row in h.values()))
            yield

    monkeypatch.setattr(Stream, "_read", read)
    labels(shards, 300)
    assert WINDOW - 3 <= max(counts) <= WINDOW
    assert min(counts[WINDOW:]) >= 0.7 * WINDOW


def test_the_first_image_waits_for_one_row_group_only(shards, monkeypatch):
    read, real = [], Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, group: read.append(group) or real(self, group))
    monkeypatch.setattr(Stream, "_run", lambda self: None)
    for start in (0, 5, 30, 63):
        read.clear()
        with stream(shards, start=start) as opened:
            rows = opened._rows()
            first = next(rows)
            assert read == [shards.group_of(first.number)]


def test_who_begins_at_the_end_of_a_window_does_not_wait_for_the_whole_next_one(shards, monkeypatch):
    read, real = [], Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, group: read.append(group) or real(self, group))
    monkeypatch.setattr(Stream, "_run", lambda self: None)
    last = len(shards.epoch(0, 0, WINDOW)[0].rows) - 1
    with stream(shards, start=last) as opened:
        rows = opened._rows()
        next(rows)
        second = next(rows)
        assert read[-1] == shards.group_of(second.number)
        assert len(read) <= 3  # a window has three groups


def test_windows_hold_as_many_rows_where_row_groups_differ(tmp_path):
    """The hub's files end with a small row group."""
    sizes, number = (10, 3, 10, 1, 10, 10, 2, 10), 0
    with pq.ParquetWriter(tmp_path / "train-0.parquet", SCHEMA) as out:
        for size in sizes * 3:
            rows = [{"image": {"bytes": b"", "path": ""}, "artist": 0, "style": 0}] * size
            out.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            number += size
    found = Shards([tmp_path / "train-0.parquet"], "image", "style", range(27))
    for epoch in range(20):
        windows = found.epoch(0, epoch, 42)
        held = [sum(found.groups[g].rows for g in w.groups) for w in windows]
        assert len(windows) == 4
        assert sum(held) == number == 168
        assert all(42 - 10 <= rows <= 42 + 10 for rows in held)


def test_a_row_is_named_by_its_file_and_its_place_in_it(shards):
    assert shards.name(0) == "train-00000-of-00003.parquet row 0"
    assert shards.name(GROUPS * ROWS - 1) == "train-00000-of-00003.parquet row 23"
    assert shards.name(GROUPS * ROWS + ROWS + 2) == "train-00001-of-00003.parquet row 10"
    assert [shards.group_of(n) for n in (0, ROWS - 1, ROWS, 71)] == [0, 0, 1, 8]


def test_the_threads_do_not_run_ahead(shards, monkeypatch):
    real, decoded = Cache.image, []
    monkeypatch.setattr(Cache, "image", lambda self, row: decoded.append(row) or real(self, row))
    with stream(shards, ahead=3) as opened:
        opened.next(2)
        threading.Event().wait(0.3)
        assert len(decoded) == 2 + 3 + 1


def test_in_the_place_of_a_bad_image_stands_the_next_whole_one_of_its_split(tmp_path):
    # 8 and 10 with 9, which is held out, between them; the last row but one, after which comes the first
    bad = {8: 11, 10: 11, 70: 71, 71: 0}
    shards = written(tmp_path / "some", broken=bad)
    expected = [bad.get(n, n) for n in epoch(shards)]
    expected = [bad.get(n, n) for n in expected]
    with stream(shards, bad_share=0.1) as opened:
        assert opened.next(shards.train_rows)[1].tolist() == expected
        assert sorted(opened.cache.bad) == sorted(bad)
        assert opened.cache.bad[8].startswith("train-00000-of-00003.parquet row 8: neither PNG nor JPEG")
    assert labels(shards, 20, start=40, threads=3, bad_share=0.1) == expected[40:60]


def test_more_bad_images_than_may_be_skipped_stop_the_run(tmp_path):
    shards = written(tmp_path / "some", broken=(3, 4, 5))
    with pytest.raises(
        DataError,
        match=r"^shards: 3 of 72 images \(4\.17%\) cannot be read, 4\.00% may be skipped: train-00000\S+ row ",
    ):
        labels(shards, 65, bad_share=0.04)


def test_a_shard_that_is_cut_short_is_named(tmp_path):
    written(tmp_path / "cut")
    file = tmp_path / "cut" / "train-00001-of-00003.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"^train-00001-of-00003\.parquet is not a whole parquet file"):
        Shards([file], "image", "style", range(1000))


def test_a_shard_damaged_inside_or_without_the_columns_ends_in_one_line(tmp_path):
    shards = written(tmp_path / "damaged")
    with pytest.raises(
        DataError, match=r"row group \d, is not a whole parquet file with the columns picture \{bytes, path\} and style"
    ):
        labels(Shards([shards.groups[0].file], "picture", "style", range(1000)), 1)
    file = Path(shards.groups[0].file)
    file.write_bytes(b"\0" * 3000 + file.read_bytes()[3000:])
    with pytest.raises(DataError, match=r"train-00000-of-00003\.parquet"):
        labels(shards, 65)


def test_closing_ends_the_threads_at_once_whatever_they_do(shards):
    before = threading.active_count()
    for n in (0, 3):
        with stream(shards) as opened:
            if n:
                opened.next(n)
        assert threading.active_count() == before


def test_remarks_of_pillow_are_not_shown_and_filters_set_meanwhile_stay(shards):
    with stream(shards, threads=4) as opened, warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        within = list(warnings.filters)
        opened.next(200)
        assert warnings.filters == within
    assert any(f[0] == "ignore" and f[3] and f[3].match("PIL.Image") for f in warnings.filters)


def test_what_went_wrong_is_said_to_everyone_who_asks(shards):
    opened = stream(Shards([shards.groups[0].file], "picture", "style", range(1000)))
    for _ in range(2):
        with pytest.raises(DataError, match="row group"):
            opened.next(1)
    opened.close()
    with pytest.raises(DataError, match="the stream is closed"):
        opened.next(1)


def test_a_set_of_one_group_finds_a_whole_image_before_the_bad_one(tmp_path):
    shards = written(tmp_path / "one", broken=(7,), files=1)
    (group,) = Shards([shards.groups[0].file], "image", "style", range(1000), limit=8).groups[:1]
    alone = Shards([group.file], "image", "style", range(1000), limit=8)
    assert len(alone.groups) == 1
    assert 7 not in labels(alone, 8, bad_share=0.2)


@pytest.mark.parametrize(("values", "what"), [(["a"], "string"), ([1.0], "double")])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, values, what):
    image = [{"bytes": picture(0), "path": "x"}]
    pq.write_table(pa.table({"image": image, "style": values}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=f"style is {what}"):
        labels(Shards([tmp_path / "train-0.parquet"], "image", "style", range(9)), 1)

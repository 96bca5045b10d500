"""Streamed sets in training: the same batches from shards and from what was decoded, whoever decodes and whatever is lost."""

import os
import resource
import shutil
import signal
import threading
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faults.lives import TIMING

from guidebook.config.datasets import CATALOG, DataError
from guidebook.data import cache as module
from guidebook.data.batches import Ahead, Stream, feed
from guidebook.data.cache import Cache
from guidebook.data.decode import decode, progressive
from guidebook.data.drawn import paintings
from guidebook.data.files import Files
from guidebook.data.images import Streamed, load, spread
from guidebook.data.shards import Shards
from guidebook.runs import manifest
from guidebook.runs.manifest import intact
from guidebook.runs.run import open_run
from guidebook.training.checkpoint import Writer
from guidebook.training.loop import train
from guidebook.training.profiler import PARTS as STEPS
from guidebook.training.step import prepared
from guidebook.training.validation import Validation

SIDE, TRAIN = 8, 54  # pixels of a decoded image; training images: with those held out 59
BROKEN = {5: b"<html>", 29: b""}  # the second is held out


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Shards of 59 paintings in three files, two of them broken."""
    paintings._grain.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paintings, "LONG", (120, 150))
        patch.setattr(paintings, "SHORT", (90, 110))
        folder = paintings.drawn(tmp_path_factory.mktemp("paintings"), 59, seed=0, files=3, group=5)
    paintings._grain.cache_clear()
    first = 0
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for number, raw in BROKEN.items():
            if first <= number < first + len(rows):
                rows[number - first]["image"]["bytes"] = raw
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file, row_group_size=5)
        first += len(rows)
    return sorted(folder.glob("*.parquet"))


@pytest.fixture
def params(tiny, drawn, runs, monkeypatch):
    monkeypatch.setattr("guidebook.data.images._paintings", lambda data: Files("drawn", drawn, []))
    monkeypatch.setitem(CATALOG, "paintings", replace_entry(bad_share=0.05, window=15))
    told = {"name": "paintings", "resolution": SIDE, "limit": TRAIN, "caption": "A painting in the style of {label}"}
    return tiny.replace(
        data=told, text={"tokens": 10}, train={"epochs": 3, "batch": 6, "checkpoint_every": 1}, evaluate={"samples": 81}
    )


def replace_entry(**changes):
    import dataclasses

    return dataclasses.replace(CATALOG["paintings"], **changes)


@pytest.fixture
def data(params):
    load.cache_clear()
    yield load(params.data)
    load.cache_clear()


def held_out(n):
    return n % 10 == 9


def again(data) -> Cache:
    """The cache of another process."""
    return Cache("paintings", data.shards, SIDE, data.cache.bad_share)


def kept(cache) -> list[int]:
    return [row for row in range(59) if not cache.lacks(row)]


def batches(data, params, n, start=0):
    """The first images and labels of a training, which images they are, and in which epochs."""
    fed = feed(data, params.train)
    try:
        found = [fed.batch(start + i * params.train.batch) for i in range(n)]
    finally:
        fed.close()
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def of_row(data, row):
    """Image and label of a row, straight from its file."""
    group = next(i for i, g in enumerate(data.shards.groups) if g.first <= row < g.first + g.rows)
    found = next(r for r in data.shards.read(group) if r.number == row)
    return torch.from_numpy(decode(found.raw, 3, SIDE).copy()), found.label


def test_the_set_is_streamed_and_its_splits_are_what_the_files_hold(data):
    assert isinstance(data, Streamed)
    assert (len(data.train), len(data.test)) == (TRAIN, 5)
    rows = [n for n in range(59) if not held_out(n)]
    for split, numbers in ((data.train, rows), (data.test, [n for n in range(59) if held_out(n)])):
        assert split.images.dtype == torch.uint8
        for at, row in enumerate(numbers):
            if row not in BROKEN:
                image, label = of_row(data, row)
                assert torch.equal(split.images[at], image)
                assert split.labels[at] == label
    assert [name.split(":")[0] for name in data.skipped] == [data.shards.name(row) for row in BROKEN]
    raws = (r.raw for i in range(len(data.shards.groups)) for r in data.shards.read(i) if r.number not in BROKEN)
    assert data.cache.progressive == sum(map(progressive, raws)) > 0
    assert torch.equal(data.train.images[5], of_row(data, 6)[0])  # in the place of a bad one the next of its split
    assert torch.equal(data.test.images[2], of_row(data, 39)[0])


def test_batches_are_the_same_streamed_and_decoded(data, params):
    assert isinstance(feed(data, params.train), Ahead)
    streamed = batches(data, params, 20)  # two epochs and a part of the third
    assert intact(data.cache.folder)  # the first epoch was kept
    load.cache_clear()
    found = batches(load(params.data), params, 20)
    assert all(torch.equal(a, b) for a, b in zip(streamed, found, strict=True))
    assert not torch.equal(streamed[1][:TRAIN], streamed[1][TRAIN : 2 * TRAIN])
    assert sorted(streamed[2][:TRAIN].tolist()) == list(range(TRAIN))
    assert streamed[3].tolist() == [i // TRAIN for i in range(len(streamed[3]))]
    assert torch.equal(streamed[0], data.train.images[streamed[2]])
    assert torch.equal(streamed[1], data.train.labels[streamed[2]])


@pytest.mark.parametrize("start", [6, 48, 54, 60, 600])
def test_a_batch_is_the_same_wherever_the_training_begins(data, params, start):
    whole = batches(data, params, start // 6 + 3)
    for _ in range(2):
        found = batches(data, params, 3, start)
        assert all(torch.equal(a, b[start:]) for a, b in zip(found, whole, strict=True))


def test_a_feed_may_go_back(data, params):
    fed = feed(data, params.train)
    first = fed.batch(0)
    fed.batch(30)
    assert torch.equal(fed.batch(0)[0], first[0])
    fed.close()


def test_two_that_decode_share_the_work_and_a_third_finishes_what_both_left(data, monkeypatch):
    caches = [data.cache, again(data)]
    streams = []
    for rank, cache in enumerate(caches):
        cache.keep()
        other = types.SimpleNamespace(shards=data.shards, cache=cache, window=data.window)
        streams.append(Stream(other, 0, rank, 2, ahead=5))
    for one in streams:
        one.next(10)
    for one in streams:
        one.close()
    done = kept(data.cache)
    assert 20 <= len(done) < 59
    assert not data.cache.complete()
    decodes, real, third = [], Cache._write, again(data)
    monkeypatch.setattr(Cache, "_write", lambda self, row, *rest: (decodes.append(row), real(self, row, *rest)))
    third.decode()
    assert sorted(decodes + done) == list(range(59))  # what was there was not decoded again
    assert [f.name for f in data.cache.folder.parent.iterdir()] == [data.cache.folder.name]
    assert data.cache.complete()


def test_what_began_too_late_is_cleared_away(data):
    late = again(data)
    data.cache.decode()
    late.keep()
    assert late.complete()
    assert [f.name for f in data.cache.folder.parent.iterdir()] == [data.cache.folder.name]


def begun(data, monkeypatch, parts: int = 1) -> Cache:
    """A cache of which so many parts are made, and row 6 is decoded."""
    cache, real = again(data), Cache._fill

    def stopped(self, first, end):
        if first == 5 * parts:
            raise KeyboardInterrupt
        return real(self, first, end)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "_fill", stopped)
        with pytest.raises(KeyboardInterrupt):
            cache.decode()
    cache.image(next(row for row in data.shards.read(1) if row.number == 6))
    return cache


def test_rows_that_were_decoded_before_the_machine_restarted_do_not_count_and_parts_do(data, monkeypatch):
    begun(data, monkeypatch)
    for start, rows in (("here", [0, 1, 2, 3, 4, 6]), ("another", [0, 1, 2, 3, 4])):
        if start == "another":
            monkeypatch.setattr(module, "here", lambda: "another-start")
        cache = again(data)
        cache.keep()
        assert kept(cache) == rows


IMAGE = 3 * SIDE**2
CHANGED = {  # a file, and its byte that changes: of row 3, of row 9, of row 3, of row 6
    "train.npy": -(TRAIN - 3) * IMAGE + 5, "test.npy": -5 * IMAGE + 5, "labels.npy": -(59 - 3) * 8, "state-": 6 * 4,
    "000000000-000000005.json": -30, "bad-000000005.json": 30,
}  # fmt: skip


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_byte_or_a_cut_of_what_is_half_decoded_changes_no_image(data, name, cut, restarted, monkeypatch):
    wanted, skipped = [split.clone() for k in ("train", "test") for split in data.cache.split(k)], data.skipped
    shutil.rmtree(data.cache.folder)
    (file,) = (f for f in begun(data, monkeypatch, parts=2).aside.rglob("*") if f.name.startswith(name))
    raw, at = file.read_bytes(), CHANGED[name] % file.stat().st_size
    file.write_bytes(raw[: len(raw) // 2] if cut else raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    if restarted:
        monkeypatch.setattr(module, "here", lambda: "another-start")
    cache = again(data)
    cache.keep()
    assert torch.equal(cache.some([*range(9)])[0], wanted[0][:9])
    found = [split for k in ("train", "test") for split in cache.split(k)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert [text.split(":")[0] for text in cache.skipped] == [text.split(":")[0] for text in skipped]


def test_what_another_machine_decodes_meanwhile_is_left_alone(data, monkeypatch):
    theirs = again(data)
    with monkeypatch.context() as patch:
        patch.setattr(module, "here", lambda: "elsewhere-1234")
        theirs.keep()
    theirs.image(next(data.shards.read(1)))
    data.cache.decode()
    assert kept(theirs) == [5]
    assert theirs.complete()  # whoever was first counts
    assert np.array_equal(theirs.arrays["train"], data.cache.arrays["train"])


@pytest.mark.timeout(60)
def test_one_of_several_processes_decodes_all_where_the_others_wait(data, monkeypatch):
    alone = type("World", (), {"process_index": 1, "num_processes": 2, "is_main_process": False})
    monkeypatch.setattr(module, "world", lambda: alone)
    data.cache.decode()
    assert data.cache.arrays["labels"].shape == (59,)


def test_another_resolution_is_other_data(data, params):
    other = load(params.replace(data={"resolution": 2 * SIDE}).data)
    assert other.fingerprint != data.fingerprint
    assert other.shards.fingerprint == data.shards.fingerprint


def test_bad_images_are_known_before_all_are_decoded(data):
    with Stream(data, seed=0) as found:
        found.next(TRAIN)
        assert data.skipped[0].startswith(f"{data.shards.name(5)}: neither PNG nor JPEG")
    assert data.cache.progressive is None


def test_what_was_decoded_takes_the_place_of_the_stream(data, params):
    fed = feed(data, params.train)
    for i in range(2 * TRAIN // params.train.batch + 2):
        fed.batch(i * params.train.batch)
    assert data.cache.arrays
    assert fed._stream is None
    fed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("read shards", "decode"))]


def test_on_several_machines_nothing_is_kept_that_none_of_them_sees_whole(data, params, monkeypatch, caplog):
    two = type("World", (), {"process_index": 0, "num_processes": 2, "device": torch.device("cpu")})
    monkeypatch.setattr("guidebook.data.batches.world", lambda: two)
    for here, keeps in (("1", False), ("2", True)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        fed = feed(data, params.train)
        assert data.cache.keeps == keeps
        fed.close()
    assert caplog.text.count("guidebook fetch EXPERIMENT --decode") == 1


def test_a_disk_that_is_full_at_the_end_of_decoding_stops_no_training(data, params, monkeypatch, caplog):
    real = os.replace

    def full(source, target):
        if target == data.cache.folder:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)  # after the manifest was written
        images = batches(data, params, 24)[0]
    assert "what was decoded could not be kept for other runs: [Errno 28]" in caplog.text
    load.cache_clear()
    assert torch.equal(images, batches(load(params.data), params, 24)[0])  # now there is room
    manifest._verified.clear()
    assert intact(data.cache.folder)  # its manifest is complete


@pytest.mark.parametrize("file", ["train.npy", "test.npy", "labels.npy", "notes.json", "manifest.json"])
def test_a_changed_byte_of_what_was_decoded_is_noticed_and_all_is_decoded_anew(data, params, file, caplog):
    want, path = data.train.images.clone(), data.cache.folder / file
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    assert torch.equal(load.__wrapped__(params.data).train.images, want)
    assert "is not what was written; it is made anew" in caplog.text


def test_other_files_other_sizes_and_other_limits_are_decoded_apart(drawn, data, params):
    places = {
        Cache("paintings", Shards(files, "image", "style", range(27), limit), side, 0).folder
        for files in (drawn, drawn[:2])
        for limit in (None, 20)
        for side in (8, 16)
    }
    assert len(places) == 6  # the first 20 rows of both sets are the same
    assert data.cache.folder == Cache("paintings", Shards(drawn, "image", "style", range(27), TRAIN), SIDE, 0).folder


def test_training_goes_on_where_the_disk_has_no_room_for_what_was_decoded(data, params, caplog):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        images = batches(data, params, 12)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (
        "every epoch decodes its images anew: decoded-paintings-e052c45c: train.npy (0.00 GB) was not written"
        in caplog.text
    )
    assert not list(data.cache.folder.parent.glob("**/*.npy"))
    assert torch.equal(images, batches(data, params, 12)[0])


def test_more_bad_images_than_may_be_skipped_stop_whoever_meets_the_last(params, data, monkeypatch):
    data.cache.bad_share = 0.02  # one of 59
    with pytest.raises(DataError, match=r"^paintings: 2 of 59 images \(3\.39%\) cannot be read, 2\.00% may be skipped"):
        data.cache.decode()
    load.cache_clear()
    other = load(params.data)
    other.cache.bad_share = 0.02
    with pytest.raises(DataError, match="2 of 59 images"):  # though this one meets only one of them
        batches(other, params, 90)


@pytest.mark.timeout(30)
def test_a_bad_image_that_only_the_test_split_has_is_told_too(data, params, monkeypatch):
    """Nobody waits for that image: unheard, decoding would never end."""
    data.cache.bad_share, mended = 0.0, np.zeros((3, SIDE, SIDE), np.uint8)
    real = module.decode
    monkeypatch.setattr(module, "progressive", lambda raw: False)
    monkeypatch.setattr(module, "decode", lambda raw, *a: mended if raw == b"<html>" else real(raw, *a))
    with pytest.raises(DataError, match=r"^paintings: 1 of 59 images .* row 9: empty"):
        batches(data, params, 90)


def weights(trainer):
    return torch.cat([w.detach().flatten() for w in trainer.weights])


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(data, params, tmp_path):
    one, other = prepared(params, data), prepared(params, data)
    for _ in range(6):
        one.step()
    with Writer(tmp_path, 2, 1) as writer:
        writer.save(*one.state())
    tensors, state = one.state()
    other.restore({k: {n: t.clone() for n, t in g.items()} for k, g in tensors.items()}, state)
    for _ in range(8):  # over the end of an epoch; then decoded images take over
        one.step()
        other.step()
    assert torch.equal(weights(one), weights(other))
    one.feed.close()
    other.feed.close()


def test_the_held_out_images_of_a_stream_are_asked_whether_they_are_decoded_or_not(data, params):
    trainer, held = prepared(params, data), [9, 19, 29, 39, 49]
    before = Validation(trainer)()
    assert kept(data.cache) == held  # and no other was decoded for it
    assert Validation(trainer)() == before
    data.cache.close()  # as where the disk has no room for what is decoded
    assert kept(data.cache) == []
    assert Validation(trainer)() == before
    trainer.feed.close()
    data.cache.decode()
    assert Validation(trainer)() == before
    assert torch.equal(spread(data, 64).images, data.test.images)
    assert torch.equal(spread(data, 3).labels, data.test.labels[[0, 2, 4]])


def test_a_training_writes_the_same_lines_whatever_was_decoded_before_it(data, params, runs, monkeypatch):
    params, found = params.replace(train={"checkpoint_every": 0.25}), []
    for decoded in (False, True):
        monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs / f"{decoded}"))
        load.cache_clear()
        if decoded:
            load(params.data).cache.decode()
        train(run := open_run(params))
        found.append([{k: v for k, v in line.items() if k not in TIMING} for line in run.stats()])
    assert found[0] == found[1]
    assert all("validation_loss" in line for line in found[0] if line["nimg"] % 12 == 0)


def test_parts_of_a_step_add_up_to_the_step(data, params):
    import time

    trainer = prepared(params, data)
    for _ in range(3):
        trainer.step()
    trainer.flush()
    started = time.perf_counter()
    for _ in range(10):
        trainer.step()
    spent, parts = 100 * (time.perf_counter() - started), trainer.flush()["ms_by_part"]
    trainer.feed.close()
    assert set(parts) == set(STEPS)
    assert all(ms > 0 for ms in parts.values())
    assert 0.9 * spent < sum(parts.values()) <= spent
    assert trainer.profiler.flush() == {}


def test_shards_lie_on_this_machine_or_behind_an_address(drawn):
    import fsspec

    system = fsspec.filesystem("memory")
    for file in drawn:
        system.pipe(f"/hub/{file.name}", file.read_bytes())
    here = Shards(drawn, "image", "style", range(27))
    there = Shards([f"memory://hub/{file.name}" for file in drawn], "image", "style", range(27))
    assert here.fingerprint == there.fingerprint
    assert list(here.read(1)) == list(there.read(1))
    system.rm("/hub", recursive=True)


def test_labels_that_are_no_class_are_refused(drawn):
    with pytest.raises(DataError, match=r"has label \d+; allowed are 0 to 2, for 3 classes"):
        list(Shards(drawn, "image", "style", range(3)).read(0))


def test_the_first_rows_are_as_many_as_the_limit_wants_for_training(drawn):
    for limit in range(1, 56):
        shards = Shards(drawn, "image", "style", range(27), limit)
        assert shards.train_rows == min(limit, 54)
        assert sum(g.rows for g in shards.groups) == shards.rows
        assert [r.number for i in range(len(shards.groups)) for r in shards.read(i)] == list(range(shards.rows))

"""Streamed sets in training: the same batches from shards and from what was decoded, whoever decodes and whatever is lost."""

import logging
import os
import platform
import resource
import signal
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from guidebook.data.decoded import Filling, opened

from guidebook.config.datasets import CATALOG, DataError
from guidebook.data import decoded as module
from guidebook.data import stream
from guidebook.data.batches import Ahead, feed
from guidebook.data.decode import decode, progressive
from guidebook.data.drawn import paintings
from guidebook.data.images import Streamed, load
from guidebook.data.shards import Shards, held_out
from guidebook.training.checkpoint import Writer
from guidebook.training.profiler import PARTS
from guidebook.training.trainer import Trainer

SIDE, TRAIN = 8, 54  # pixels of a decoded image; training images: with those held out 59
BROKEN = {5: b"<html>", 29: b""}  # the second is held out


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Shards of 59 paintings in three files, two of them broken."""
    folder = tmp_path_factory.mktemp("paintings") / "drawn"
    paintings._grain.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paintings, "LONG", (120, 150))
        patch.setattr(paintings, "SHORT", (90, 110))
        paintings.write(folder, 59, seed=0, files=3, group=5)
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
    monkeypatch.setattr("guidebook.data.streamed._paintings", lambda data, entry: drawn)
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


def batches(data, params, n, start=0):
    """The first images and labels of a training."""
    fed = feed(data, params.train)
    try:
        found = [fed.batch(start + i * params.train.batch) for i in range(n)]
    finally:
        fed.close()
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


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
    raws = (row.raw for i in range(len(data.shards.groups)) for row in data.shards.read(i))
    assert data.progressive == sum(map(progressive, raws)) > 0
    assert torch.equal(data.train.images[5], of_row(data, 6)[0])  # in the place of a bad one the next of its split
    assert torch.equal(data.test.images[2], of_row(data, 39)[0])


def test_batches_are_the_same_streamed_and_decoded(data, params):
    assert isinstance(feed(data, params.train), Ahead)
    streamed = batches(data, params, 20)  # two epochs and a part of the third
    assert opened(data.folder)  # the first epoch was kept
    found = batches(data, params, 20)
    assert all(torch.equal(a, b) for a, b in zip(streamed, found, strict=True))
    assert not torch.equal(streamed[1][:TRAIN], streamed[1][TRAIN : 2 * TRAIN])
    assert sorted(streamed[1][:TRAIN].tolist()) == sorted(data.train.labels.tolist())


@pytest.mark.parametrize("start", [6, 48, 54, 60, 600])
def test_a_batch_is_the_same_wherever_the_training_begins(data, params, start):
    whole = batches(data, params, start // 6 + 3)
    for images, labels in (batches(data, params, 3, start), batches(data, params, 3, start)):
        assert torch.equal(images, whole[0][start:])
        assert torch.equal(labels, whole[1][start:])


def test_a_feed_may_go_back(data, params):
    fed = feed(data, params.train)
    first = fed.batch(0)
    fed.batch(30)
    assert torch.equal(fed.batch(0)[0], first[0])
    fed.close()


def test_two_that_decode_share_the_work_and_a_third_finishes_what_both_left(data, caplog):
    fillings = [Filling(data.folder, data.shards, SIDE) for _ in range(2)]
    both = [data.stream(0, rank, 2, filling) for rank, filling in enumerate(fillings)]
    for one in both:
        one.next(10)
    for one in both:
        one.close()
    left = np.flatnonzero(fillings[0].state == module.MISSING).tolist()
    assert 0 < len(left) <= 59 - 20
    assert fillings[0].done() is None
    decodes = []
    caplog.set_level(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        real = Filling.put
        patch.setattr(Filling, "put", lambda self, row, *rest, **k: (decodes.append(row), real(self, row, *rest, **k)))
        third = data.decoded
    assert sorted(set(decodes)) == left  # what was there was not decoded again
    assert third.folder == data.folder
    assert not list(data.folder.parent.glob(".*decoded-*/*.npy"))


def test_what_began_too_late_is_cleared_away(data):
    assert data.decoded
    late = Filling(data.folder, data.shards, SIDE)
    late.state[:] = module.WHOLE
    assert late.done().labels.tolist() == data.decoded.labels.tolist()
    assert not late.aside.exists()


def test_what_was_decoded_before_the_machine_restarted_does_not_count(data, monkeypatch):
    Filling(data.folder, data.shards, SIDE).put(0, np.zeros((3, SIDE, SIDE), np.uint8), 0, module.WHOLE)
    assert not Filling(data.folder, data.shards, SIDE).lacks(0)
    monkeypatch.setattr(module.manifest, "here", lambda: f"{platform.node()}-another1")
    assert Filling(data.folder, data.shards, SIDE).lacks(0)
    assert data.decoded.labels.shape == (59,)
    assert not list(data.folder.parent.glob(".*decoded-*/*.npy"))  # of the first start either


def test_what_another_machine_has_begun_is_left_alone(data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.manifest, "here", lambda: "elsewhere-1234")
        theirs = Filling(data.folder, data.shards, SIDE)
    theirs.put(7, np.ones((3, SIDE, SIDE), np.uint8), 3, module.WHOLE)
    assert data.decoded
    assert (theirs.aside / "train.npy").exists()
    assert not theirs.lacks(7)
    assert theirs.done().labels.tolist() == data.decoded.labels.tolist()  # whoever was first counts


def test_bytes_are_hashed_once_after_a_start_of_the_machine_and_again_where_a_file_changed(data, monkeypatch):
    assert data.decoded
    hashed, real = [], module.manifest.verify
    monkeypatch.setattr(module.manifest, "verify", lambda *told: hashed.append(1) or real(*told))
    assert opened(data.folder)
    assert opened(data.folder)
    assert not hashed
    with monkeypatch.context() as patch:
        patch.setattr(module.manifest, "here", lambda: "another-start")
        assert opened(data.folder)
        assert opened(data.folder)
    assert len(hashed) == 1
    (data.folder / "labels.npy").touch()
    assert opened(data.folder)
    assert len(hashed) == 2


@pytest.mark.timeout(60)
def test_one_of_several_processes_decodes_all_where_the_others_wait(data, monkeypatch):
    alone = type("World", (), {"process_index": 1, "num_processes": 2, "is_main_process": False})
    monkeypatch.setattr("guidebook.data.streamed.world", lambda: alone)
    assert data.decoded.labels.shape == (59,)


def test_another_resolution_is_other_data(data, params):
    other = Streamed(params.replace(data={"resolution": 2 * SIDE}).data)
    assert other.fingerprint != data.fingerprint
    assert other.shards.fingerprint == data.shards.fingerprint


def test_bad_images_are_known_before_all_are_decoded(data):
    filling = Filling(data.folder, data.shards, SIDE)
    with data.stream(0, 0, 1, filling) as found:
        found.next(TRAIN)
        assert data.skipped[0].startswith(f"{data.shards.name(5)}: neither PNG nor JPEG")
    assert data.progressive is None


def test_what_was_decoded_takes_the_place_of_the_stream(data, params):
    fed = feed(data, params.train)
    for i in range(2 * TRAIN // params.train.batch + 2):
        fed.batch(i * params.train.batch)
    assert fed._decoded
    assert fed._stream is None
    fed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("read shards", "decode"))]


def test_on_several_machines_nothing_is_kept_that_none_of_them_sees_whole(data, params, monkeypatch, caplog):
    two = type("World", (), {"process_index": 0, "num_processes": 2, "device": torch.device("cpu")})
    monkeypatch.setattr("guidebook.data.feed.world", lambda: two)
    for here, kept in (("1", False), ("2", True)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        fed = feed(data, params.train)
        assert (fed._filling is not None) == kept
        fed.close()
    assert caplog.text.count("guidebook fetch EXPERIMENT --decode") == 1


def test_a_disk_that_is_full_at_the_end_of_decoding_stops_no_training(data, params, monkeypatch, caplog):
    real = os.replace

    def full(source, target):
        if target == data.folder:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", full)  # after the manifest was written
        images, _ = batches(data, params, 24)
    assert "what was decoded could not be kept for other runs: [Errno 28]" in caplog.text
    assert torch.equal(images, batches(data, params, 24)[0])  # now there is room
    for stamp in data.folder.glob(".verified-*"):
        stamp.unlink()
    assert opened(data.folder)  # its manifest is whole


@pytest.mark.parametrize("file", ["train.npy", "test.npy", "labels.npy", "facts.json", "manifest.json"])
def test_a_changed_byte_of_what_was_decoded_is_noticed_and_all_is_decoded_anew(data, file, caplog):
    want, path = data.train.images.clone(), data.folder / file
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    assert opened(data.folder) is None
    assert "is not what was written; it is decoded anew" in caplog.text
    data._found = None
    del data.__dict__["decoded"], data.__dict__["train"]
    assert torch.equal(data.train.images, want)


def test_other_files_other_sizes_and_other_limits_are_decoded_apart(drawn, data, params):
    places = {
        module.place(data.folder.parent, Shards(files, "image", "style", 27, limit), side)
        for files in (drawn, drawn[:2])
        for limit in (None, 20)
        for side in (8, 16)
    }
    assert len(places) == 6  # the first 20 rows of both sets are the same
    assert data.folder in {module.place(data.folder.parent, Shards(drawn, "image", "style", 27, TRAIN), SIDE)}


def test_training_goes_on_where_the_disk_has_no_room_for_what_was_decoded(data, params, caplog):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        images, _ = batches(data, params, 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "every epoch decodes its images anew: train.npy of the decoded images was not written" in caplog.text
    assert not list(data.folder.parent.glob("**/*.npy"))
    assert torch.equal(images, batches(data, params, 12)[0])


def test_more_bad_images_than_may_be_skipped_stop_whoever_meets_the_last(params, data, monkeypatch):
    data.bad_share = 0.02  # one of 59
    with pytest.raises(DataError, match=r"^shards: 2 of 59 images \(3\.39%\) cannot be read, 2\.00% may be skipped"):
        data.decoded  # noqa: B018
    load.cache_clear()
    again = load(params.data)
    again.bad_share = 0.02
    with pytest.raises(DataError, match="2 of 59 images"):  # though this one meets only one of them
        batches(again, params, 12)


@pytest.mark.timeout(30)
def test_a_bad_image_that_only_the_test_split_has_is_told_too(data, monkeypatch):
    """Nobody waits for that image: unheard, decoding would never end."""
    data.bad_share, mended = 0.0, np.zeros((3, SIDE, SIDE), np.uint8)
    real = stream.decode_in_thread
    monkeypatch.setattr(stream, "decode_in_thread", lambda raw, *a: mended if raw == b"<html>" else real(raw, *a))
    with pytest.raises(DataError, match=r"^shards: 1 of 59 images .* row 9: empty"):
        data.decoded  # noqa: B018


def weights(trainer):
    return torch.cat([w.detach().flatten() for w in trainer.weights])


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(data, params, tmp_path):
    one, other = Trainer(params, data), Trainer(params, data)
    for _ in range(6):
        one.step()
    with Writer(tmp_path, 2, 1) as writer:
        writer.save(one.nimg, *one.state())
    tensors, state = one.state()
    other.restore({k: {n: t.clone() for n, t in g.items()} for k, g in tensors.items()}, state)
    for _ in range(8):  # over the end of an epoch; then decoded images take over
        one.step()
        other.step()
    assert torch.equal(weights(one), weights(other))
    one.close()
    other.close()


def test_parts_of_a_step_add_up_to_the_step(data, params):
    import time

    trainer = Trainer(params, data)
    for _ in range(3):
        trainer.step()
    trainer.flush()
    started = time.perf_counter()
    for _ in range(10):
        trainer.step()
    spent, parts = 100 * (time.perf_counter() - started), trainer.flush()["ms_by_part"]
    trainer.close()
    assert set(parts) == set(PARTS)
    assert all(ms > 0 for ms in parts.values())
    assert 0.9 * spent < sum(parts.values()) <= spent
    assert trainer.profiler.flush() == {}


def test_shards_lie_on_this_machine_or_behind_an_address(drawn):
    import fsspec

    system = fsspec.filesystem("memory")
    for file in drawn:
        system.pipe(f"/hub/{file.name}", file.read_bytes())
    here = Shards(drawn, "image", "style", 27)
    there = Shards([f"memory://hub/{file.name}" for file in drawn], "image", "style", 27)
    assert here.fingerprint == there.fingerprint
    assert list(here.read(1)) == list(there.read(1))
    system.rm("/hub", recursive=True)


def test_labels_that_are_no_class_are_refused(drawn):
    with pytest.raises(DataError, match=r"has label \d+; allowed are 0 to 2, for 3 classes"):
        list(Shards(drawn, "image", "style", 3).read(0))


def test_the_first_rows_are_as_many_as_the_limit_wants_for_training(drawn):
    for limit in range(1, 56):
        shards = Shards(drawn, "image", "style", 27, limit)
        assert shards.train_rows == min(limit, 54)
        assert sum(g.rows for g in shards.groups) == shards.rows
        assert [r.number for i in range(len(shards.groups)) for r in shards.read(i)] == list(range(shards.rows))

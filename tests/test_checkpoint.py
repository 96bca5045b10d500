"""Checkpoints: whole or not there; a byte that changed is found; the older ones outlive a full disk."""

import json
import subprocess
import sys

import pytest
import torch

from guidebook.runs.manifest import Corrupt
from guidebook.training import checkpoint

FILES = ["ema-0.9.safetensors", "model.safetensors", "state.json"]


def tensors(value: float = 1.0, size: int = 300) -> dict:
    weights = {"a": torch.full((size,), value), "b": torch.arange(size) * value}
    return {"model": weights, "ema-0.9": {k: v / 3 for k, v in weights.items()}}


def save(folder, nimg, keep=2, value=1.0, grid=1):
    return checkpoint.save(folder, nimg, tensors(value), {"nimg": nimg, "seconds": 0.1 + 0.2}, keep, grid)


def names(folder):
    return [p.name for p in checkpoint.complete(folder)]


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "checkpoints", 640)


def test_what_is_loaded_is_what_was_saved_bit_for_bit(saved):
    found, state = checkpoint.load(saved)
    assert state == {"nimg": 640, "seconds": 0.1 + 0.2}
    for name, group in tensors().items():
        assert found[name].keys() == group.keys()
        assert all(torch.equal(found[name][k], group[k]) for k in group)


def test_a_view_is_saved_as_what_it_shows(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    path = checkpoint.save(tmp_path, 1, {"model": {"t": whole.T, "row": whole[1]}}, {}, keep=2, grid=1)
    found, _ = checkpoint.load(path)
    assert torch.equal(found["model"]["t"], whole.T)
    assert torch.equal(found["model"]["row"], whole[1])


def test_a_checkpoint_holds_safetensors_and_json_and_nothing_pickled(saved):
    assert sorted(p.name for p in saved.iterdir()) == sorted([*FILES, "manifest.json"])
    for path in saved.iterdir():
        raw = path.read_bytes()
        head = raw[8 : 8 + int.from_bytes(raw[:8], "little")] if path.suffix == ".safetensors" else raw
        assert isinstance(json.loads(head), dict)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_any_file_is_refused_and_the_file_is_named(saved, name, place, bit):
    raw = bytearray((saved / name).read_bytes())
    raw[round(place * (len(raw) - 1))] ^= 1 << bit
    (saved / name).write_bytes(raw)
    with pytest.raises(Corrupt, match=name) as caught:
        checkpoint.load(saved)
    others = [f for f in FILES if f != name]
    assert not [f for f in others if f in str(caught.value)]
    assert f"delete the folder {saved}" in str(caught.value)


def test_a_flipped_bit_anywhere_in_the_manifest_is_refused(saved):
    whole = (saved / "manifest.json").read_bytes()
    for i in range(len(whole)):
        raw = bytearray(whole)
        raw[i] ^= 1
        (saved / "manifest.json").write_bytes(raw)
        with pytest.raises(Corrupt):
            checkpoint.load(saved)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("size", [0, 0.5, -1])
def test_a_file_cut_short_is_refused(saved, name, size):
    raw = (saved / name).read_bytes()
    (saved / name).write_bytes(raw[: round(size * len(raw)) if size >= 0 else size])
    with pytest.raises(Corrupt, match=name):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_something_after_its_end_is_refused(saved, name):
    with open(saved / name, "ab") as file:
        file.write(b"\0")
    with pytest.raises(Corrupt, match=name):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(Corrupt, match=name):
        checkpoint.load(saved)


@pytest.mark.parametrize("text", ["[]", "null", "{}", "3", '{"state.json": 7}'])
def test_a_manifest_that_is_none_is_refused(saved, text):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(Corrupt):
        checkpoint.load(saved)


def test_files_of_two_checkpoints_do_not_mix(tmp_path):
    a, b = save(tmp_path, 1), save(tmp_path, 2, value=2.0)
    (b / "model.safetensors").write_bytes((a / "model.safetensors").read_bytes())
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        checkpoint.load(b)


@pytest.mark.parametrize("leftover", [".writing-0000000200", "nimg-0000000200", "nimg-0000000200.tmp", "latest"])
def test_an_unfinished_checkpoint_is_skipped_with_a_log_line(tmp_path, caplog, leftover):
    save(tmp_path, 100)
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "model.safetensors").write_bytes(b"half")
    assert names(tmp_path) == ["nimg-0000000100"]
    assert leftover in caplog.text


def test_a_folder_that_is_not_there_holds_no_checkpoint(tmp_path):
    assert checkpoint.complete(tmp_path / "none") == []


def test_an_unfinished_checkpoint_is_written_again(tmp_path):
    for leftover in (".writing-0000000200", "nimg-0000000200"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "model.safetensors").write_bytes(b"half")
    path = save(tmp_path, 200)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nimg-0000000200"]
    assert checkpoint.load(path)[1]["nimg"] == 200


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_are_kept_and_the_older_removed(tmp_path, keep):
    counts = [100, 200, 1000, 10_000_000_000, 20_000_000_000]  # by number: as text the last two come first
    for nimg in counts:
        save(tmp_path, nimg, keep)
    assert names(tmp_path) == [f"nimg-{n:010d}" for n in counts[-keep:]]


@pytest.mark.parametrize(
    ("saved", "there", "trained"),
    [
        ([100, 200, 210], [100, 200, 210], [100, 200]),
        ([100, 200, 210, 220], [100, 200, 220], [100, 200]),
        ([100, 200, 210, 300], [200, 300], [200, 300]),
        ([10], [10], []),
        ([10, 20, 30], [20, 30], []),  # two at least, should one be corrupt
        ([10, 20, 100], [20, 100], [100]),
        ([100, 110, 120], [100, 110, 120], [100]),
        ([100, 110, 200], [100, 200], [100, 200]),
    ],
)
def test_a_checkpoint_off_the_grid_stays_while_it_is_the_newest_and_displaces_none_on_it(
    tmp_path, saved, there, trained
):
    def counts():
        return [checkpoint.images(path) for path in checkpoint.complete(tmp_path)]

    for nimg in saved:
        save(tmp_path, nimg, grid=100)
    assert counts() == there
    checkpoint.prune(tmp_path, 2, 100, trained=True)
    assert counts() == trained


def test_an_unfinished_checkpoint_does_not_count_among_the_kept(tmp_path):
    save(tmp_path, 100)
    (tmp_path / "nimg-0000000150").mkdir()
    save(tmp_path, 200)
    assert names(tmp_path) == ["nimg-0000000100", "nimg-0000000200"]


def test_an_error_while_writing_leaves_the_older_ones_and_no_rest(tmp_path):
    save(tmp_path, 100)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 200, tensors(), {"not JSON": object()}, keep=2, grid=1)
    assert [p.name for p in tmp_path.iterdir()] == ["nimg-0000000100"]


# The system itself refuses every byte after the limit, as a full disk does.
FULL = """
import resource, signal, sys, torch
from pathlib import Path
from guidebook.training import checkpoint
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
tensors = {"model": {"w": torch.ones(50_000)}, "optimizer": {"w": torch.ones(100_000)}}
try:
    checkpoint.save(folder, 200, tensors, {"nimg": 200, "long": "x" * 500_000}, keep=2, grid=1)
except OSError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("limit", [300_000, 450_000], ids=["in the weights", "in the state"])
def test_a_full_disk_leaves_the_older_checkpoint_whole_and_says_so(tmp_path, limit):
    old = save(tmp_path, 100)
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), str(limit)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "File too large" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    assert torch.equal(checkpoint.load(old)[0]["model"]["b"], tensors()["model"]["b"])
    assert checkpoint.load(save(tmp_path, 200))[1]["nimg"] == 200  # with space it goes on

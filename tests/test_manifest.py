"""A sealed folder gives back what was written, or nothing."""

import json
import random

import pytest

from guidebook.runs.manifest import MANIFEST, Corrupt, checksum, verify


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    (folder / "a.bin").write_bytes(random.Random(0).randbytes(100))
    (folder / "b.json").write_text(json.dumps({"b": 1}))
    checksum(folder)
    return folder


def test_what_was_written_is_named(sealed):
    assert verify(sealed, "") == ["a.bin", "b.json"]


def test_any_single_byte_that_changes_is_noticed(sealed):
    rng = random.Random(1)
    for file in sealed.iterdir():
        whole = file.read_bytes()
        for at in range(len(whole)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
            with pytest.raises(Corrupt):
                verify(sealed, "")
        file.write_bytes(whole)
    assert verify(sealed, "")


def test_the_error_names_the_file_and_says_what_to_do(sealed):
    (sealed / "a.bin").write_bytes(b"")
    with pytest.raises(Corrupt, match=r"^things: a\.bin is not what was written; delete it and run again$"):
        verify(sealed, "delete it and run again")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "3", '"a.bin"', '{"a.bin": 3}', "[[1, 2]]", "\xff"])
def test_a_manifest_that_is_none_is_refused(sealed, text):
    (sealed / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(Corrupt, match=r"manifest\.json|a\.bin"):
        verify(sealed, "")


def test_a_file_that_is_gone_is_noticed(sealed):
    (sealed / "b.json").unlink()
    with pytest.raises(Corrupt, match=r"b\.json"):
        verify(sealed, "")


def test_a_file_that_came_later_is_no_part_of_it(sealed):
    (sealed / "c.txt").write_text("later")
    assert verify(sealed, "") == ["a.bin", "b.json"]


def test_what_another_process_writes_meanwhile_and_takes_away_again_stops_no_one(sealed):
    """Two that end one folder at once: what the one sees of the other's is gone when it comes to it, as a link to nothing is."""
    (sealed / f".{MANIFEST}.other").symlink_to(sealed / "gone")
    checksum(sealed)
    assert verify(sealed, "") == ["a.bin", "b.json"]

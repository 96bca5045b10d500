"""A sealed folder gives back what was written, or nothing."""

import json
import random

import pytest

from guidebook.runs.manifest import MANIFEST, Corrupt, seal, verify, whole


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    (folder / "a.bin").write_bytes(random.Random(0).randbytes(100))
    (folder / "b.json").write_text(json.dumps({"b": 1}))
    seal(folder)
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


def test_a_folder_has_its_name_once_it_is_whole(tmp_path):
    folder = tmp_path / "runs" / "thing"
    with whole(folder, "the thing") as aside:
        (aside / "a.txt").write_text("a")
        assert not folder.exists()
    assert verify(folder, "") == ["a.txt"]
    assert list(folder.parent.iterdir()) == [folder]


def test_of_two_that_make_a_folder_the_first_one_counts(tmp_path):
    folder = tmp_path / "thing"
    with whole(folder, "the thing") as aside:
        (aside / "a.txt").write_text("second")
        aside.rename(tmp_path / "later")
        with whole(folder, "the thing") as first:
            (first / "a.txt").write_text("first")
        (tmp_path / "later").rename(aside)
    assert (folder / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_get_its_name_is_an_error_and_leaves_nothing(tmp_path):
    folder = tmp_path / "thing"
    folder.write_text("a file is in the way")
    with pytest.raises(OSError, match="the thing was not written"), whole(folder, "the thing") as aside:
        (aside / "a.txt").write_text("a")
    assert list(tmp_path.iterdir()) == [folder]

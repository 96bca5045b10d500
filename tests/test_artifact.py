"""Arrays made part by part: the same bytes whoever makes them, however often they are interrupted."""

import itertools
import logging
import os
import platform
import random
import shutil
import signal
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
from faults.lives import PROCESSES, deadly

from guidebook.config.schema import Text
from guidebook.runs import artifact as module
from guidebook.runs import manifest, preemption
from guidebook.runs.artifact import PARTS, Parts, arrays, artifact, notes, place
from guidebook.runs.manifest import intact, verify
from guidebook.runs.preemption import Preempted, stopping
from guidebook.runtime.distributed import agreed, alone

N, PAGE = 50, 4096
CUTS = (0, 7, 8, 20, 21, 33, N)
SPEC = {"of": "test"}
A = place(Path(), "a", SPEC).name
SHAPES = {"squares": ((3, 2), np.float32), "names": ((), np.int64)}


def rows(first: int, end: int) -> tuple[dict[str, np.ndarray], list[str]]:
    n = np.arange(first, end)
    squares = (n[:, None] ** 2 + np.arange(6)).reshape(-1, 3, 2).astype(np.float32)
    return {"squares": squares, "names": 10 * n}, [f"row {i}" for i in n if i % 9 == 4]


def counting(made: list, make=rows):
    """`make`, which writes down the parts that it was asked for."""

    def counted(first: int, end: int):
        made.append((first, end))
        return make(first, end)

    return counted


def make_in(root: Path, made: list | None = None, cuts=CUTS, make=rows, **told) -> Path:
    return artifact(
        root, "a", SPEC, counting(made, make) if made is not None else make, Parts(cuts, SHAPES, **told), "squaring"
    )


def as_made(folder: Path) -> bool:
    found, (expected, noted) = arrays(folder), rows(0, N)
    same = all(np.array_equal(found[name], x) and found[name].dtype == x.dtype for name, x in expected.items())
    return same and found.keys() == expected.keys() and notes(folder) == noted


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


@pytest.fixture
def whole(tmp_path):
    """The folder of one process that nothing interrupted."""
    made = []
    folder = make_in(tmp_path / "whole", made)
    assert as_made(folder)
    assert made == list(itertools.pairwise(CUTS))
    return folder


@pytest.mark.parametrize("cuts", [(0, N), CUTS, tuple(range(N + 1))], ids=["one part", "uneven parts", "a part a row"])
def test_arrays_hold_what_was_made_and_are_made_once(tmp_path, cuts):
    assert as_made(make_in(tmp_path, cuts=cuts))
    made = []
    assert as_made(make_in(tmp_path, made, cuts))
    assert made == []
    assert {f.name for f in tmp_path.iterdir()} == {A}
    assert bytes_of(tmp_path / A).keys() == {"squares.npy", "names.npy", "notes.json", "manifest.json"}


def test_a_file_is_one_that_numpy_reads(whole):
    for name, expected in rows(0, N)[0].items():
        assert np.array_equal(np.load(whole / f"{name}.npy"), expected)


def test_what_is_written_into_an_open_array_stays_out_of_its_file(whole):
    before = bytes_of(whole)
    arrays(whole)["names"][:] = -1
    assert bytes_of(whole) == before
    assert as_made(whole)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 8])
def test_shares_in_any_order_make_every_part_once_and_the_last_has_the_arrays(tmp_path, whole, n):
    order, made = random.Random(n).sample(range(n), n), []
    found = [intact(make_in(tmp_path, made, share=(k, n))) for k in order]
    holders = [i for i, k in enumerate(order) if k < len(CUTS) - 1]  # with more shares than parts some are empty
    assert found == [i >= holders[-1] for i in range(n)]
    assert sorted(made) == list(itertools.pairwise(CUTS))
    assert as_made(tmp_path / A)
    assert bytes_of(tmp_path / A) == bytes_of(whole)


def test_a_share_that_comes_again_makes_nothing_again(tmp_path):
    made = []
    for _ in range(2):
        assert not intact(make_in(tmp_path, made, share=(0, 2)))
    assert made == list(itertools.pairwise(CUTS))[::2]
    assert as_made(make_in(tmp_path, made))  # who has no share finishes what all of them left
    assert sorted(made) == list(itertools.pairwise(CUTS))


def _of_a_world(folder: Path, rank: int, size: int) -> None:
    """One of several processes that talk."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "GUIDEBOOK_STORE": f"file://{folder}/store"}
    made = []
    assert as_made(make_in(folder / "even", made))
    for i in range(3):  # one of them has a part less to make, and polls as often
        with stopping(types.SimpleNamespace(path=folder, owner=folder)):
            assert as_made(make_in(folder / f"odd-{i}", cuts=(0, 5, 10, N)))

    def write(aside: Path) -> None:
        assert alone()  # what asks the others in here would wait for ever
        assert not agreed(False)
        (aside / "rank.txt").write_text(str(rank))

    def refuse(aside: Path) -> None:
        raise Preempted("a test") if rank == 0 else AssertionError

    assert (artifact(folder, "by-main", 1, write) / "rank.txt").read_text() == "0"
    with pytest.raises(Preempted):
        artifact(folder, "by-main", 2, refuse)
    with pytest.raises(ZeroDivisionError if rank == 0 else RuntimeError):
        artifact(folder, "by-main", 3, lambda aside: 1 / 0)
    (folder / f"made-{rank}.txt").write_text(repr(made))


def test_two_processes_that_talk_make_half_each_and_both_have_all(tmp_path, whole):
    both = [PROCESSES.Process(target=_of_a_world, args=(tmp_path, rank, 2)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in both] == [0, 0]
    parts = list(itertools.pairwise(CUTS))
    assert [(tmp_path / f"made-{rank}.txt").read_text() for rank in range(2)] == [repr(parts[::2]), repr(parts[1::2])]
    for name in ("even", "odd-0", "odd-1", "odd-2"):
        assert bytes_of(tmp_path / name / A) == bytes_of(whole)


@pytest.mark.parametrize("part", range(len(CUTS) - 1))
def test_of_two_that_know_nothing_of_each_other_the_slower_one_has_the_arrays_too(tmp_path, whole, part):
    """Two runs that begin on one data set at once: one finishes while the other is at some part."""

    def slow(first: int, end: int):
        if first == CUTS[part]:
            assert as_made(make_in(tmp_path))
        return rows(first, end)

    assert as_made(make_in(tmp_path, make=slow))
    assert bytes_of(tmp_path / A) == bytes_of(whole)
    assert sorted(f.name for f in tmp_path.iterdir()) == [A, "whole"]


@pytest.mark.parametrize("share", [None, (0, 1)], ids=["alone", "shared"])
@pytest.mark.parametrize("moment", ["mkdir", "_reserve", "_finish", "dumps", "checksum", "replace"])
def test_who_is_overtaken_at_the_very_beginning_or_end_has_the_arrays_too(tmp_path, whole, monkeypatch, moment, share):
    owners = {"mkdir": Path, "dumps": module.json, "checksum": module.manifest, "replace": os}
    owner, parts = owners.get(moment, module), len(CUTS) - 1
    real, overtaken = getattr(owner, moment), []

    def call(*args, **kwargs):
        ready = moment in ("mkdir", "_reserve") or len(list((tmp_path / f".{A}" / PARTS).glob("*.json"))) == parts
        if not overtaken and ready and (moment != "replace" or args[1] == tmp_path / A):
            overtaken.append(True)
            assert as_made(make_in(tmp_path))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, call)
        assert as_made(make_in(tmp_path, share=share))
    assert overtaken
    assert bytes_of(tmp_path / A) == bytes_of(whole)
    assert sorted(f.name for f in tmp_path.iterdir()) == [A, "whole"]


# Killed


def _killed(root: Path, where: str, which: int | str, when: str) -> None:
    deadly(where, which, when)
    make_in(root)


MOMENTS = [
    ("guidebook.runs.artifact._reserve", 1, "before", 0), ("guidebook.runs.artifact._reserve", 2, "before", 0),
    ("os.posix_fallocate", 2, "before", 0), ("os.posix_fallocate", 1, "after", 0), ("os.open", 3, "before", 0),
    ("guidebook.runs.artifact._write", 1, "before", 0), ("guidebook.runs.artifact._write", 5, "after", 2),
    ("guidebook.runs.artifact._write", 6, "after", 2), ("json.dumps", 9, "before", 3),
    ("guidebook.runs.manifest.fsync", 3, "after", 2), ("os.replace", 3, "after", 3), ("os.replace", 6, "after", 6),
    ("os.replace", 7, "before", 6), ("os.replace", 7, "after", 6), ("guidebook.runs.manifest.checksum", 1, "before", 6),
    ("guidebook.runs.manifest.checksum", 1, "after", 6), ("os.replace", 8, "before", 6), ("os.replace", 8, "after", 6),
]  # fmt: skip


def test_wherever_it_is_killed_parts_that_were_made_are_not_made_again(tmp_path, whole):
    parts = list(itertools.pairwise(CUTS))
    for i, (where, which, when, done) in enumerate(MOMENTS):
        folder, made = tmp_path / str(i) / A, []
        process = PROCESSES.Process(target=_killed, args=(folder.parent, where, which, when))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, MOMENTS[i]
        assert as_made(make_in(folder.parent, made)), MOMENTS[i]
        assert made == parts[done:], MOMENTS[i]
        assert {k: v for k, v in bytes_of(folder).items() if k in bytes_of(whole)} == bytes_of(whole), MOMENTS[i]


def _slowly(folder: Path, life: int) -> None:
    def make(first: int, end: int):
        with open(folder.with_name(f"made-{life}.txt"), "a") as said:
            said.write(f"{first}\n")
        time.sleep(0.005)
        return rows(first, end)

    make_in(folder.parent, cuts=range(N + 1), make=make)


def test_killed_at_random_moments_it_repeats_one_part_a_life_at_most(tmp_path, whole):
    folder, rng, made = tmp_path / "often" / A, random.Random(0), []
    folder.parent.mkdir()
    for life in range(6):
        process, said = PROCESSES.Process(target=_slowly, args=(folder, life)), folder.with_name(f"made-{life}.txt")
        process.start()
        while process.is_alive() and not said.exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        if life < 5:
            process.kill()
        process.join(60)
        assert process.exitcode == (0 if life == 5 else -signal.SIGKILL)
        made += [int(line) for line in said.read_text().split()]
    assert sorted(set(made)) == list(range(N))
    assert len(made) <= N + 5
    assert as_made(folder)
    same = ("squares.npy", "names.npy", "notes.json")
    assert all(bytes_of(folder)[name] == bytes_of(whole)[name] for name in same)


def test_who_is_asked_to_stop_does_so_after_the_part_and_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "EVERY", 0)
    run, made = types.SimpleNamespace(path=tmp_path / "run", owner=tmp_path / "run"), []
    run.path.mkdir()

    def make(first: int, end: int):
        if first == CUTS[2] and len(made) == 2:
            (run.path / "STOP").touch()
        made.append((first, end))
        return rows(first, end)

    with pytest.raises(Preempted, match="stopped squaring, part 3 of 6, saved"), stopping(run):
        make_in(tmp_path, make=make)
    assert made == list(itertools.pairwise(CUTS))[:3]
    with stopping(run):
        assert as_made(make_in(tmp_path, make=make))
    assert made == list(itertools.pairwise(CUTS))


# Damaged, or without room


@pytest.mark.parametrize("file", ["squares.npy", "names.npy", "notes.json", "manifest.json"])
def test_a_changed_byte_is_noticed_and_all_is_made_anew(whole, file, caplog):
    caplog.set_level(logging.WARNING)
    before, raw, made = bytes_of(whole), bytearray((whole / file).read_bytes()), []
    raw[-3] ^= 1
    (whole / file).write_bytes(raw)
    assert as_made(make_in(whole.parent, made))
    assert made == list(itertools.pairwise(CUTS))
    assert [r.getMessage() for r in caplog.records] == [f"{A}: {file} is not what was written; it is made anew"]
    assert bytes_of(whole) == before
    assert {f.name for f in whole.parent.iterdir()} == {A}


@pytest.fixture
def small(tmp_path):
    """A disk of 40 pages."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    from faults.test_disk import Disk  # not above: processes that are killed would import all that it needs

    disk = Disk(tmp_path / "small", 40 * PAGE)
    yield disk
    module.shutil.rmtree(disk.place, ignore_errors=True)
    os.system(f"umount --lazy {disk.place}")


WIDE = {"wide": ((PAGE,), np.uint8)}  # a page a row


def pages(first: int, end: int):
    return {"wide": np.arange(first, end, dtype=np.uint8)[:, None].repeat(PAGE, 1)}, [f"row {first}"]


def make_pages(root: Path, n: int, make) -> Path:
    return artifact(root, "a", SPEC, make, Parts(range(n + 1), WIDE), "paging")


def test_a_disk_without_room_for_all_is_refused_before_anything_is_made(small):
    made = []
    with pytest.raises(
        OSError, match=r"^a-[0-9a-f]{8}: wide\.npy \(0\.00 GB\) was not written \(.*No space left on device"
    ) as said:
        make_pages(small.place, 60, counting(made, pages))
    assert len(str(said.value).splitlines()) == 1
    assert made == []
    assert [f.name for f in small.place.rglob("*") if f.is_file()] == []
    small.resize(300 * PAGE)
    found = arrays(make_pages(small.place, 60, counting(made, pages)))
    assert np.array_equal(found["wide"][:, 0], np.arange(60))
    assert len(made) == 60


def test_a_disk_that_fills_meanwhile_keeps_every_part_that_was_made(small):
    """It grows page by page: it is full at a marker, at the notes, at the manifest, and then it is not."""
    built_once, made, full, said = None, [], 0, []

    def make(first: int, end: int):
        made.append(first)
        if first == 3 and len(made) == 4:
            small.leave(0)
        return pages(first, end)

    for room in range(40):
        if (small.place / ".ballast").exists():
            small.relieve()
            small.leave(room)
        try:
            built_once = arrays(make_pages(small.place, 10, make))
            break
        except OSError as error:
            full += 1
            said.append(str(error))
            assert not (small.place / A).exists()
            done = len(list((small.place / f".{A}" / PARTS).glob("*.json")))
            assert done >= 3
            assert not [
                f for f in (small.place / f".{A}" / PARTS).iterdir() if f.suffix != ".json" and f.name != "lock"
            ]
    assert full >= 3
    assert sorted(set(made)) == list(range(10))
    assert len(made) <= 10 + full  # only the part that found no room is made again
    assert {text.partition(" was not written (")[0] for text in said[:-1]} <= {"paging", f"the notes of {A}"}
    assert all("No space left on device" in text and len(text.splitlines()) == 1 for text in said)
    assert np.array_equal(built_once["wide"], pages(0, 10)[0]["wide"])


def test_memory_does_not_grow_with_the_array(tmp_path):
    """64 MB in 32 parts, made from 2 MB at a time."""
    process, seen, parts, side = psutil.Process(), [], 32, 2**21

    def make(first: int, end: int):
        seen.append(process.memory_info().rss)
        return {"wide": np.full((end - first, side), first, np.uint8)}, []

    found = arrays(artifact(tmp_path, "a", 0, make, Parts(range(parts + 1), {"wide": ((side,), np.uint8)})))
    after = process.memory_info().rss
    assert len(seen) == parts
    assert max(*seen[1:], after) - seen[1] < parts * side / 8
    assert found["wide"][:, -1].tolist() == list(range(parts))


def test_parts_that_are_left_of_other_cuts_vouch_for_no_row_of_these(tmp_path):
    def once(first: int, end: int):
        if first:
            raise InterruptedError
        return rows(first, end)

    with pytest.raises(InterruptedError):
        make_in(tmp_path, make=once)
    made = []
    others = (0, 20, N)
    assert as_made(make_in(tmp_path, made, others))
    assert made == list(itertools.pairwise(others))


def test_a_changed_byte_of_a_part_that_an_interruption_left_is_noticed_and_the_part_made_anew(tmp_path, whole, caplog):
    def twice(first: int, end: int):
        if first == CUTS[2]:
            raise InterruptedError
        return rows(first, end)

    for i, file in enumerate(("squares.npy", "names.npy", f"{PARTS}/000000000-000000007.json")):
        with pytest.raises(InterruptedError):
            make_in(tmp_path / str(i), make=twice)
        changed = tmp_path / str(i) / f".{A}" / file
        raw, at = bytearray(changed.read_bytes()), -3 if changed.suffix == ".json" else 128
        raw[at] ^= 1
        changed.write_bytes(raw)
        made = []
        assert as_made(make_in(tmp_path / str(i), made))
        assert made == [(0, 7), *itertools.pairwise(CUTS[2:])]
        assert "rows from 0 on are not what was written; they are made anew" in caplog.text
        caplog.clear()


# Folders


def write_text(text: str):
    return lambda aside: (aside / "a.txt").write_text(text)


def test_a_folder_has_its_name_once_it_is_complete(tmp_path):
    root, made = tmp_path / "runs", []

    def write(aside: Path) -> None:
        made.append(aside)
        (aside / "a.txt").write_text("a")
        assert not place(root, "thing", SPEC).exists()

    folder = artifact(root, "thing", SPEC, write)
    assert artifact(root, "thing", SPEC, write) == folder == place(root, "thing", SPEC)
    assert verify(folder, "") == ["a.txt"]
    assert list(root.iterdir()) == [folder]
    assert len(made) == 1


def test_what_a_killed_process_left_of_a_folder_is_gone_when_it_is_made(tmp_path):
    name, dead = place(tmp_path, "judge", SPEC).name, 2**22 + 1  # more than a process id may be
    owners = {f"{manifest.here()}-{dead}", f"{platform.node()}-0123abcd-{os.getppid()}"}
    others = {f"{manifest.here()}-{os.getppid()}", "elsewhere-0123abcd-1"}  # one at work, one of which nothing is known
    for owner in owners | others:
        (tmp_path / f".{name}-{owner}").mkdir()
    (tmp_path / f".{name}.fit").touch()
    folder = artifact(tmp_path, "judge", SPEC, lambda aside: (aside / "a.txt").write_text("made"))
    assert {f.name for f in tmp_path.iterdir()} == {folder.name, f".{name}.fit", *(f".{name}-{o}" for o in others)}


def test_another_spec_is_another_folder(tmp_path):
    specs = [1, "1", [1], {"a": 1}, {"a": (1, None)}, Path("2"), Text(encoder="embedded", tokens=8), None]
    folders = [artifact(tmp_path, "thing", spec, write_text(str(spec))) for spec in specs]
    assert len(set(folders)) == len(specs)
    assert [(f / "a.txt").read_text() for f in folders] == [str(spec) for spec in specs]


def test_of_two_that_make_a_folder_the_first_one_counts(tmp_path):
    def slow(aside: Path) -> None:
        (aside / "a.txt").write_text("second")
        aside.rename(tmp_path / "later")
        artifact(tmp_path, "thing", SPEC, write_text("first"))
        (tmp_path / "later").rename(aside)

    folder = artifact(tmp_path, "thing", SPEC, slow)
    assert (folder / "a.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_get_its_name_is_an_error_and_leaves_nothing(tmp_path):
    place(tmp_path, "thing", SPEC).write_text("a file is in the way")
    with pytest.raises(OSError, match="the thing was not written"):
        artifact(tmp_path, "thing", SPEC, write_text("a"), what="the thing")
    assert list(tmp_path.iterdir()) == [place(tmp_path, "thing", SPEC)]


def test_bytes_are_checked_once_a_process_and_when_a_file_changed(tmp_path, monkeypatch, caplog):
    hashed, real = [], module.manifest.verify
    monkeypatch.setattr(module.manifest, "verify", lambda *given: hashed.append(1) or real(*given))
    folder = artifact(tmp_path, "thing", SPEC, write_text("a"))
    assert intact(folder)
    assert hashed == []  # who made it knows
    monkeypatch.setattr(module.manifest, "_verified", {})  # another process
    for _ in range(2):
        assert artifact(tmp_path, "thing", SPEC, write_text("b")) == folder
    assert len(hashed) == 1
    (folder / "a.txt").write_text("z")
    with caplog.at_level(logging.WARNING):
        artifact(tmp_path, "thing", SPEC, write_text("b"))
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder.name}: a.txt is not what was written; it is made anew"
    ]
    assert (folder / "a.txt").read_text() == "b"

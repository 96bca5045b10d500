"""One process at a time in a run folder, and a dead one does not hold it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from guidebook.runs.lock import Locked, held, lock

HOLD = "import sys; from pathlib import Path; from guidebook.runs.lock import lock, Locked\n"
TRY = HOLD + (
    "try:\n with lock(Path(sys.argv[1])):\n  print('mine', flush=True); sys.stdin.read()\n"
    "except Locked as error: print(error, flush=True)"
)


@contextlib.contextmanager
def another(folder, code=TRY):
    """Another process that takes the lock, says so and holds it until it is told to end."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def takes(folder) -> bool:
    try:
        with lock(folder):
            return True
    except Locked:
        return False


def test_the_folder_is_held_inside_and_free_afterwards(tmp_path):
    with lock(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)
    assert not (tmp_path / "lock.json").exists()


def test_the_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    assert takes(tmp_path)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with lock(tmp_path), another(tmp_path) as second:
        said = second.stdout.readline()
    assert f"process {os.getpid()} on {socket.gethostname()} (job 4711)" in said
    assert tmp_path.name in said


def test_a_second_lock_in_the_same_process_is_refused(tmp_path):
    with lock(tmp_path), pytest.raises(Locked, match=str(os.getpid())), lock(tmp_path):
        pass


def test_a_refused_process_leaves_the_lock_to_its_owner(tmp_path):
    with lock(tmp_path):
        assert not takes(tmp_path)
        assert held(tmp_path)


def test_the_lock_of_a_killed_process_is_taken_over_with_a_log_line(tmp_path, caplog):
    with another(tmp_path) as first:
        assert first.stdout.readline() == "mine\n"
        assert not takes(tmp_path)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not held(tmp_path)
        assert takes(tmp_path)
    assert "took over" in caplog.text
    assert not (tmp_path / "lock.json").exists()


def test_a_killed_process_that_nobody_waited_for_holds_nothing(tmp_path):
    with another(tmp_path) as first:
        first.stdout.readline()
        first.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it has ended and stays a zombie
        assert takes(tmp_path)


def test_a_name_left_by_a_process_that_is_gone_holds_nothing(tmp_path):
    with lock(tmp_path):
        written = (tmp_path / "lock.json").read_text()
    (tmp_path / "lock.json").write_text(written)  # this process lives, and does not own the folder
    assert not held(tmp_path)
    assert takes(tmp_path)


def test_a_lock_cut_short_at_any_byte_is_taken_over(tmp_path):
    with lock(tmp_path):
        whole = (tmp_path / "lock.json").read_bytes()
    for cut in (*(whole[:n] for n in range(len(whole))), bytes(len(whole)), b"\xff\xfe"):
        (tmp_path / "lock.json").write_bytes(cut)
        assert takes(tmp_path), cut


@pytest.mark.parametrize(
    "owner",
    [
        *("3", "[]", "null", '{"host": 3}', '{"host": "x", "job": 12}', '{"host": "x", "job": ["-h"]}', "[" * 10**5),
        *('{"host": "x", "job": "1\\u0000"}', '{"host": "x\\ny", "job": "1"}', f'{{"host": "{"x" * 10**7}"}}'),
    ],
    ids=range(10),
)
def test_a_lock_of_another_form_names_nobody_and_is_taken_over(tmp_path, owner):
    (tmp_path / "lock.json").write_text(owner)
    assert not held(tmp_path)
    assert takes(tmp_path)


def test_a_folder_in_the_place_of_a_lock_is_named_and_holds_nothing(tmp_path):
    (tmp_path / "lock.json").mkdir()
    assert not held(tmp_path)
    with pytest.raises(OSError, match=r"lock of .* was not written .*Is a directory.*/lock\.json'"), lock(tmp_path):
        pass


def test_a_lock_of_another_host_is_believed(tmp_path):
    owner = {"pid": 1, "started": "1", "host": "another-host", "job": "12"}
    (tmp_path / "lock.json").write_text(json.dumps(owner))
    with pytest.raises(Locked, match=r"process 1 on another-host \(job 12\)"), lock(tmp_path):
        pass
    assert json.loads((tmp_path / "lock.json").read_text()) == owner


# Whoever starts at the same moment


def test_a_lock_being_written_is_not_one_cut_short(tmp_path):
    slowly = HOLD + (
        "import json, time; dumps = json.dumps\n"
        "def slow(x): print('writing', flush=True); time.sleep(0.5); return dumps(x)\n"
        "json.dumps = slow\n"
    )
    with another(tmp_path, slowly + TRY) as first:
        assert first.stdout.readline() == "writing\n"
        with another(tmp_path) as second:
            second_has_it = second.stdout.readline() == "mine\n"
            first_has_it = first.stdout.readline() == "mine\n"
    assert first_has_it + second_has_it == 1


def test_of_several_that_find_a_dead_owner_one_takes_over(tmp_path):
    (tmp_path / "lock.json").write_text("")
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(another(tmp_path)) for _ in range(4)]
        lines = [other.stdout.readline() for other in others]
    assert lines.count("mine\n") == 1
    (owner,) = [other.pid for other, line in zip(others, lines, strict=True) if line == "mine\n"]
    assert all(f"process {owner} on" in line for line in lines if line != "mine\n")


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path):
    looking = HOLD.replace("lock, Locked", "held") + (
        "Path(sys.argv[1], 'lock.json').write_text(''); print('looking', flush=True)\nwhile True: held(Path(sys.argv[1]))"
    )
    with another(tmp_path, looking) as first:
        assert first.stdout.readline() == "looking\n"
        assert all(takes(tmp_path) for _ in range(50))

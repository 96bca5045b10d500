"""Malloc's settings of processes that are started, by the environment they start in."""

import os
import subprocess
import sys

from guidebook.runtime.malloc import SETTINGS, keeping_memory


def inherited() -> list[str]:
    """The settings that a process started now finds in its environment."""
    program = f"import os; print(*(os.environ.get(n, '-') for n in {list(SETTINGS)}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_only_what_is_started_meanwhile_keeps_memory_and_a_users_own_choice_stands(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4096")
    before = dict(os.environ)
    with keeping_memory(), keeping_memory():
        assert inherited() == [SETTINGS["MALLOC_MMAP_THRESHOLD_"], "4096"]
    assert inherited() == ["-", "4096"]
    assert dict(os.environ) == before


FREED = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def touch():
    block = libc.malloc(2**24)
    ctypes.memset(block, 1, 2**24)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    """Page faults of a process that takes and frees 16 MB twenty times, after the first time."""
    return int(subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout)


def test_memory_that_was_freed_is_not_taken_from_the_system_again():
    with keeping_memory():
        assert faults() < 1000  # of 20 × 4096 pages

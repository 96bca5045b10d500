"""What processes are told about memory, by the environment they start in."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from guidebook.runtime import malloc
from guidebook.runtime.malloc import keeping_memory, large_page

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


NAMES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def told() -> list[str]:
    """What a process that is started now finds in its environment."""
    program = f"import os; print(*(os.environ.get(n, '-') for n in {NAMES}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def modern(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(malloc, "large_page", lambda: 2**21)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_only_what_is_started_meanwhile_keeps_memory_and_a_users_own_choice_stands(modern, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4096")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    with keeping_memory():
        assert told() == [str(2**30), "4096", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"]
        with keeping_memory():
            assert told()[2].count("hugetlb") == 1
    assert told() == ["-", "4096", "glibc.malloc.check=0"]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    with keeping_memory():
        assert told()[2] == "glibc.malloc.hugetlb=0"


@pytest.mark.parametrize(
    ("libc", "page", "expected"),
    [
        (("glibc", "2.35"), 2**21, [str(2**30), str(2**30), "glibc.malloc.hugetlb=1"]),
        (("glibc", "2.35"), 2**29, [str(2**30), str(2**30), "-"]),
        (("glibc", "2.35"), float("inf"), [str(2**30), str(2**30), "-"]),
        (("glibc", "2.31"), 2**21, [str(2**25), str(2**25), "-"]),
        (("", ""), 2**21, [str(2**25), str(2**25), "-"]),
    ],
)
def test_what_a_system_does_not_know_it_is_not_told(modern, monkeypatch, libc, page, expected):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(malloc, "large_page", lambda: page)
    with keeping_memory():
        assert told() == expected
    assert told() == ["-", "-", "-"]


@pytest.mark.skipif(
    "[madvise]" not in (PAGES.read_text() if PAGES.exists() else "") or large_page() > 2**21,
    reason="this Linux gives large pages to all, to none, or knows none of 2 MB",
)
def test_what_is_started_meanwhile_has_large_pages(monkeypatch):
    program = (
        "import re, torch; x = torch.ones(2**26); "
        "print(sum(map(int, re.findall(r'AnonHugePages: +([0-9]+)', open('/proc/self/smaps').read()))))"
    )

    def large() -> int:
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return int(told.stdout)

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with keeping_memory():
        assert large() > 100_000  # kB, of the 262,144 that the tensor takes
    assert large() < 100_000

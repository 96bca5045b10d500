"""How processes take memory from Linux: seldom, and much at a time."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LARGE_PAGES = "glibc.malloc.hugetlb=1"


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Processes that are started meanwhile keep the memory of tensors for the next ones, and take it in pages of 2 MB where Linux lets
    them; what the environment says about it already stands.

    On a CPU giving memory back and taking it anew costs every step of a training time, and every image that is decoded: a page at a time.
    It has to be entered before threads are started that enter it too.
    """
    library, version = platform.libc_ver()
    modern = library == "glibc" and [int(n) for n in version.split(".")[:2]] >= [2, 35]
    kept = str(2**30 if modern else 2**25)  # before, 32 MiB is the most it takes
    wanted = {name: kept for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name not in os.environ}
    tunables = os.environ.get("GLIBC_TUNABLES")
    if modern and "glibc.malloc.hugetlb" not in (tunables or "") and large_page() <= 2**21:
        wanted["GLIBC_TUNABLES"] = f"{tunables}:{LARGE_PAGES}" if tunables else LARGE_PAGES
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)
        if tunables is not None:
            os.environ["GLIBC_TUNABLES"] = tunables


def large_page() -> float:
    """Bytes of a large page of memory. Where a small one has 64 kB, it has 512 MB: too much to take at once."""
    try:
        return int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):  # a Linux without, or none
        return float("inf")

"""Settings of glibc's malloc: processes that keep the memory of tensors for the next ones."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# On a CPU, giving memory back and taking it anew costs every step of a training time, and every image that is decoded: a page at a
# time. Bytes up to which memory is kept; glibc before 2.35 refuses more than 32 MiB.
_LIBRARY, _VERSION = platform.libc_ver()
_MODERN = _LIBRARY == "glibc" and [int(n) for n in _VERSION.split(".")[:2]] >= [2, 35]
SETTINGS = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30 if _MODERN else 2**25))


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Processes started meanwhile have these settings; those that the environment has already stand.

    To be entered before threads are started that enter it too.
    """
    added = [name for name in SETTINGS if name not in os.environ]
    os.environ.update({name: SETTINGS[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)

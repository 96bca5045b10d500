"""Checksums of folders: a manifest with the sha256 of each file, verified before anything is read back."""

import contextlib
import ctypes
import functools
import glob
import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

MANIFEST = "manifest.json"
log = logging.getLogger(__name__)


class Corrupt(RuntimeError):
    """A file whose bytes are not those that were written. One line: which file, and what to do."""


@contextlib.contextmanager
def writing(aside: Path, what: str) -> Iterator[None]:
    """While `aside`, a file or a folder, is written. When that fails nothing of it stays; a full disk is an OSError with `what`."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):  # the second is what safetensors makes of a full disk
            raise OSError(f"{what} was not written ({error}); what was there before is whole") from error
        raise


def write(file: Path, data: bytes | str, what: str = "", temporary: Path | None = None) -> None:
    """Writes a file, by way of a temporary one beside it, completely or not at all. Raises OSError with `what`."""
    aside = temporary or file.with_name(f".{file.name}.{me()}")
    with writing(aside, what or str(file)):
        aside.write_bytes(data.encode() if isinstance(data, str) else data)
        fsync(aside)
        os.replace(aside, file)


def append(file: Path, text: str) -> None:
    """Adds a line to a file. Raises OSError, which names it."""
    try:
        with open(file, "a") as lines:
            lines.write(text)
    except OSError as error:
        raise OSError(f"a line of {file} was not written ({error})") from error


@contextlib.contextmanager
def whole(folder: Path, what: str) -> Iterator[Path]:
    """A folder to write into, which is hashed and gets the name `folder` when it is complete. Raises OSError with `what`.

    Where another process gave its own that name first, the first one counts, though two trainings on a GPU are not equal. What
    processes of this machine left that were killed while they made it is removed.
    """
    before = f".{folder.name}-"
    aside = folder.with_name(before + me())
    with unless(folder), writing(aside, what):
        for left in folder.parent.glob(f"{glob.escape(before + platform.node())}-*"):
            if left == aside or not running(left.name.removeprefix(before)):
                shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        rename(aside, folder)


def rename(aside: Path, folder: Path) -> None:
    """Gives a complete folder its name, with a manifest and on the disk."""
    checksum(aside)
    os.replace(aside, folder)
    fsync(folder.parent)
    _verified[folder] = _sizes_and_times(folder)  # gigabytes are not hashed twice


def take_place(aside: Path, folder: Path) -> None:
    """Gives a folder its name; where another has it, that one is gone afterwards, and at every moment there is one or the other."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    if not folder.is_dir():
        os.replace(aside, folder)
    elif ctypes.CDLL(None).renameat2(here, os.fsencode(aside), here, os.fsencode(folder), exchange):
        old = folder.rename(folder.with_name(f".old-{folder.name}-{me()}"))  # a disk of a network cannot exchange
        os.replace(aside, folder)
        aside = old
    fsync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def unless(folder: Path) -> Iterator[None]:
    """Ignores an OSError where another process has finished the folder meanwhile."""
    try:
        yield
    except OSError:
        if not folder.is_dir():
            raise


def checksum(folder: Path) -> None:
    """Writes a sha256 of each file to the manifest of its folder, and everything to the disk. What is hidden is left out."""
    shown = [path for path in sorted(folder.iterdir()) if path.name != MANIFEST and path.name[0] != "."]
    for inner in filter(Path.is_dir, shown):
        checksum(inner)
    if hashes := {f.name: _sha256(f) for f in shown if f.is_file()}:
        write(folder / MANIFEST, _text(hashes))
    for path in [
        *(path for path in folder.iterdir() if path.name[0] != "."),
        folder,
    ]:  # others' hidden ones come and go
        fsync(path)


def verify(folder: Path, remedy: str) -> list[str]:
    """Names of the files in the manifest, each of them as it was written. Raises Corrupt.

    `remedy` says what to do, after the name of the bad file: "delete … and run again".
    """
    try:
        text = (folder / MANIFEST).read_text()
        hashes = dict(json.loads(text))
        if any("/" in name for name in hashes):  # of another folder: it is not read
            raise ValueError
        # A manifest is taken only as it was written: no byte of it may differ, not even one that means nothing.
        bad = [n for n, sha in hashes.items() if not (folder / n).is_file() or _sha256(folder / n) != sha]
        bad = bad if _text(hashes) == text else [MANIFEST]
    except (OSError, ValueError, TypeError, RecursionError):
        hashes, bad = {}, [MANIFEST]
    if bad or not hashes:
        # On one line, whatever a changed manifest calls them.
        names = ", ".join(ascii(n)[1:-1] for n in bad or [MANIFEST])
        raise Corrupt(f"{folder.name}: {names} is not what was written; {remedy}")
    return list(hashes)


def intact(folder: Path) -> bool:
    """A check that an artifact is there, each file as it was written; else what is there is deleted, with a warning.

    Gigabytes take seconds to hash: each process does it once, and again where a file's size or time changed.
    """
    if not folder.is_dir():
        return False
    if _verified.get(folder) != (now := _sizes_and_times(folder)):
        try:
            verify(folder, "it is made anew")
        except Corrupt as error:
            log.warning("%s", error)
            delete(folder)
            return False
        _verified[folder] = now
    return True


_text = functools.partial(json.dumps, indent=1)  # of the hashes, by name
_verified: dict[Path, list] = {}  # what this process has hashed, with sizes and times of the files


@functools.cache
def here() -> str:
    """This machine and its start: what it had not put on its disk is gone after the next."""
    return f"{platform.node()}-{Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}"


def me() -> str:
    """This process, among those of all machines."""
    return f"{here()}-{os.getpid()}"


def running(process: str) -> bool:
    """A check that a process, by its name among those of all machines, runs on this one."""
    machine, _, pid = process.rpartition("-")
    return machine == here() and Path(f"/proc/{pid}").exists()


def delete(folder: Path) -> None:
    """Takes a folder's name away at once, for others may be about to open it, and then its files."""
    with contextlib.suppress(FileNotFoundError):
        gone = folder.rename(folder.with_name(f".gone-{folder.name}-{os.getpid()}"))
        shutil.rmtree(gone, ignore_errors=True)


def fsync(path: Path) -> None:
    """Puts a file or a folder on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sizes_and_times(folder: Path) -> list:
    files = ((f.name, f.stat()) for f in sorted(folder.iterdir()) if not f.name.startswith("."))
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

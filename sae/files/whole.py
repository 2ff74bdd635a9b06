"""Files that are written whole or not at all, by one at a time, whatever happens in between.

Whoever reads, changes and writes a file holds the lock of it, among threads and among programs. The lock lies on a file
of its own beside the file, which stays there: removing it while another program opens it would give two programs one
lock each. The operating system lets go of it when a program ends, however it ends.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from .quote import shown

# Windows denies access to a file for the moment in which another program reads or replaces it.
TRIES, PAUSE = (100 if os.name == "nt" else 1), 0.02

Result = TypeVar("Result")


class UnwritableError(ValueError):
    """The system does not let us write: the folder is full, read-only, or something else is in its place."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end; UnwritableError where that cannot be.

    A reader sees the old file or the new one, never a part, and after a power cut there is one of them: the new one is
    on the disk before it takes the place. Whatever goes wrong, the old one stays and nothing else is left behind.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f"{path.name[:60]}.{token_hex(8)}.tmp")
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # readable to whom others' files are
        part = name
        yield part
        _to_disk(part)
        patiently(lambda: name.replace(path))
        if os.name == "posix":  # the folder's list of names; Windows keeps it by itself
            _to_disk(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)  # it is still there where something went wrong


@contextmanager
def told_when_unwritable(path: Path) -> Iterator[None]:
    """For what may be written in part, such as a log or a report: UnwritableError names the file."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UnwritableError:
    return UnwritableError(
        f"{shown(path.name)}: it cannot be written ({error.strerror or 'the disk may be full'}), so nothing was "
        f"changed; make room, or allow writing in its folder."
    )


def patiently(action: Callable[[], Result]) -> Result:
    for _ in range(TRIES - 1):
        with suppress(PermissionError):
            return action()
        time.sleep(PAUSE)
    return action()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

SUFFIX = ".lock"
PATIENCE = 20.0  # seconds to wait for another's turn, which takes milliseconds
BETWEEN_TRIES = 0.01  # seconds
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
# Some file systems lock for the whole program, so its threads have locks of their own, one for each lock file.
_OF_THREADS: dict[str, threading.Lock] = {}

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Holds the lock of a file, which need not exist; ValueError where it cannot be had within `patience` seconds."""
    until = time.monotonic() + patience
    own = path.with_name(path.name + SUFFIX)
    of_threads = _OF_THREADS.setdefault(os.path.realpath(own), threading.Lock())
    if not of_threads.acquire(timeout=patience):
        raise _too_long(path, patience)
    try:
        handle = _open(own, path)
        try:
            if not _taken(handle, until, path):
                raise _too_long(path, patience)
            try:
                yield
            finally:
                _unlock(handle)
        finally:
            os.close(handle)
    finally:
        of_threads.release()


def _too_long(path: Path, patience: float) -> ValueError:
    return ValueError(
        f"{shown(path.name)}: it has been in use for {patience:g} seconds, so nothing was changed; try again, or "
        f"end the "
        "other program that is writing it."
    )


def _open(own: Path, path: Path) -> int:
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        return os.open(own, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UnwritableError(
            f"{shown(path.name)}: nothing can be written beside it ({error.strerror}); allow it."
        ) from error


def _taken(handle: int, until: float, path: Path) -> bool:
    """Whether the lock could be had in time. A file system without locks is told in the log; threads still wait."""
    while True:
        try:
            _lock(handle)
        except OSError as error:
            if error.errno not in _BUSY:
                log.warning(
                    "%s: its file system has no locks (%s); what two programs write there at once may be lost.",
                    path.name, error.strerror,
                )  # fmt: skip
                return True
        else:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(BETWEEN_TRIES)


if sys.platform == "win32":

    def _lock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has the handle too

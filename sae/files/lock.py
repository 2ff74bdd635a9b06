"""One at a time: whoever reads, changes and writes a file holds the lock of it, among threads and among programs.

The lock lies on a file of its own beside the file, which stays there: removing it while another program opens it would
give two programs one lock each. The operating system lets go of it when a program ends, however it ends.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .quote import shown
from .whole import UnwritableError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

SUFFIX = ".lock"
PATIENCE = 20.0  # seconds to wait for another's turn, which takes milliseconds
PAUSE = 0.01
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
        time.sleep(PAUSE)


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

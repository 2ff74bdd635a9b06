"""Files that are written whole or not at all, whatever happens in between: a full disk, a crash, a power cut."""

from __future__ import annotations

import os
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

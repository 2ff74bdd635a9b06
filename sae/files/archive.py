"""What zip archives of weights have in common, whether torch.save or numpy wrote them: bounded, and found by offset.

Layout: PKWARE's APPNOTE, sections 4.3.7 (a member's own header), 4.3.14 and 4.3.16 (the ends of the directory).
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import Protocol

# A member's entry in the directory has some 100 bytes, and zipfile makes ten times as much of it. A checkpoint has one
# storage a tensor, see pickle_check.py; an SAE some ten.
MAX_DIRECTORY_BYTES = 8 * 2**20
UNREADABLE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, OSError, NotImplementedError, OverflowError, EOFError,
    RuntimeError,
)  # fmt: skip

_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_END_BYTES, _LOCATOR_BYTES, _END_64_BYTES = 22, 20, 56
_MOST_COMMENT = 2**16


class Readable(Protocol):
    """As much of a file as is needed."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes | None: ...


def check_directory(file: Readable) -> None:
    """Raises zipfile.BadZipFile when the archive's directory is larger than any checkpoint's.

    Before `zipfile` reads it: 90 MB of entries would take gigabytes.
    """
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - _END_BYTES - _MOST_COMMENT)
    file.seek(start)
    tail = file.read(size - start) or b""
    place = tail.rfind(_END)
    if place < 0:
        raise zipfile.BadZipFile
    directory = int.from_bytes(tail[place + 12 : place + 16], "little")
    place_64 = start + place - _LOCATOR_BYTES - _END_64_BYTES
    if place_64 >= 0:  # an archive above 4 GB has a second end before this one, and zipfile believes that
        file.seek(place_64)
        end = file.read(_END_64_BYTES) or b""
        if end.startswith(_END_64):
            directory = int.from_bytes(end[40:48], "little")
    if directory > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile


def data_start(file: Readable, header: int) -> int:
    """Where a member's data begins: behind its own header of 30 bytes, its name and its extra field."""
    file.seek(header)
    local = file.read(30) or b""
    if local[:4] != b"PK\x03\x04" or len(local) < 30:
        raise zipfile.BadZipFile
    return header + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")

"""Small JSON files that people write and share: read with limits, changed one at a time, set aside when broken."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from .quote import shown
from .whole import locked, patiently, replacing, unwritable

MOST_BYTES = 16 * 2**20
BROKEN = ".broken"

Content = TypeVar("Content")


class UnreadableError(ValueError):
    """The file may be as it should, but the system does not let us read it."""


def is_number(value: object, below: float = sys.float_info.max) -> TypeGuard[float]:
    """Whether a value of JSON is a number that a float can hold: a whole one may have 400 digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < below


def read_json(path: Path, what: str, named: str | None = None, most: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a file of up to `most` bytes; ValueError names the file (or begins with `named`) otherwise.

    `what` is what the file should be.
    """
    named = named or shown(path.name)
    try:
        text = patiently(lambda: _beginning(path, most))
    except OSError as error:
        raise UnreadableError(f"{named}: this {what} cannot be read ({error.strerror}).") from error
    if len(text) > most:
        raise ValueError(f"{named}: it is larger than {most >> 20} MB, which no {what} is.")
    return parse_object(text, f"{named}: this {what}")


def _beginning(path: Path, most: int) -> bytes:
    """One byte more than `most` where there is more."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file")  # to open a pipe is to wait for whoever writes to it
    with path.open("rb") as file:
        return file.read(most + 1)


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in a text, or in bytes of UTF-8; ValueError begins with `what`."""
    try:
        found = json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is no text in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no valid JSON.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what} is a JSON {type(found).__name__}, but an object {{…}} is needed.")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the file in one go, see `replacing`."""
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    with replacing(path) as part:
        part.write_text(f"{text}\n", encoding="utf-8")


def update_json(
    path: Path, read: Callable[[Path], Content], change: Callable[[Content | None], Mapping[str, Any]]
) -> str:
    """Reads a file, changes what it holds and replaces it, while nobody else does; every change of a file goes here.

    `read` raises ValueError for a broken file: that is set aside, which the text given back tells, and `change` gets
    None, as for a file that is not there. A file that cannot be read stays as it is: UnreadableError.
    """
    told, known = "", None
    with locked(path):
        if path.is_file():
            try:
                known = read(path)
            except UnreadableError:
                raise
            except ValueError as error:
                told = f"{error} It was set aside as {set_aside(path).name}."
        write_json(path, change(known))
    return told


def set_aside(path: Path) -> Path:
    """Renames a broken file, never over another one; returns its new name."""
    number, target = 0, path.with_name(path.name + BROKEN)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{BROKEN}-{number}")
    try:
        path.rename(target)
    except OSError as error:
        raise unwritable(path, error) from error
    return target


DIGITS = 16


def digest_of(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits of parts that JSON can hold, in their order; of anything else, what `str` makes of it."""
    return hashlib.sha256(json.dumps(list(parts), default=str).encode()).hexdigest()[:DIGITS]

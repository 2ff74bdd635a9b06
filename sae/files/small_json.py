"""Small JSON files that people write and share: read with limits, changed one at a time, set aside when broken."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .lock import locked

MOST_BYTES = 16 * 2**20
BROKEN = ".broken"
# Windows denies access to a file for the moment in which another program reads or replaces it.
TRIES, PAUSE = (100 if os.name == "nt" else 1), 0.02

Content = TypeVar("Content")
Result = TypeVar("Result")


class UnreadableError(ValueError):
    """The file may be as it should, but the system does not let us read it."""


def read_json(path: Path, what: str, named: str | None = None) -> dict[str, Any]:
    """The object in a file; ValueError names the file (or begins with `named`), and `what` it should be, otherwise."""
    named = named or path.name
    try:
        text = _patiently(lambda: _beginning(path))
    except OSError as error:
        raise UnreadableError(f"{named}: this {what} cannot be read ({error.strerror}).") from error
    if len(text) > MOST_BYTES:
        raise ValueError(f"{named}: it is larger than {MOST_BYTES >> 20} MB, which no {what} is.")
    return parse_object(text, f"{named}: this {what}")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


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
    """Replaces the file in one go: a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")
        _patiently(lambda: Path(name).replace(path))
    finally:
        Path(name).unlink(missing_ok=True)  # it is still there where something went wrong


def _patiently(action: Callable[[], Result]) -> Result:
    for _ in range(TRIES - 1):
        with suppress(PermissionError):
            return action()
        time.sleep(PAUSE)
    return action()


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
    path.rename(target)
    return target

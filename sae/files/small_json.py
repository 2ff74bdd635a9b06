"""Small JSON files that people write and share: read with limits, written in one go, set aside when broken."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_BYTES = 16 * 2**20
BROKEN = ".broken"


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a file; ValueError names the file, and `what` it should be, for anything else."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.name}: it is larger than {MOST_BYTES >> 20} MB, which no {what} is.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path.name}: this {what} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: this {what} is no text in UTF-8.") from error
    return parse_object(text, f"{path.name}: this {what}")


def parse_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text; ValueError begins with `what`."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
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
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> Path:
    """Renames a broken file, never over another one; returns its new name."""
    number, target = 0, path.with_name(path.name + BROKEN)
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{BROKEN}-{number}")
    path.rename(target)
    return target

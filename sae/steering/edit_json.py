"""Edits as JSON objects: what a row of FeatureMixer and a feature of a recipe have in common.

`feature` and `strength`; where known `mean`, `max`, `share` (the density), `unit` and `calibration` (method, low,
clear, high).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..files.quote import quoted
from ..files.small_json import is_number
from .edits import Calibration, Edit
from .methods import METHODS, is_method

LARGEST = 1e12  # of a number that people write
NUMBERS = {"mean": "mean", "max": "max", "share": "density"}  # in JSON, in an Edit
KEYS = frozenset({"feature", "strength", "unit", "calibration", *NUMBERS})
_CALIBRATION = ("method", "low", "clear", "high")


def write_edit(edit: Edit) -> dict[str, Any]:
    """What is known of an edit."""
    known = {name: getattr(edit, ours) for name, ours in NUMBERS.items() if getattr(edit, ours) is not None}
    unit = {"unit": edit.unit} if edit.unit is not None else {}
    ranges = {"calibration": asdict(edit.calibration)} if edit.calibration is not None else {}
    return {"feature": edit.feature, "strength": edit.strength, **known, **unit, **ranges}


def read_edit(entry: Mapping[str, Any], where: str) -> Edit:
    """The edit of a JSON object with a `feature`; `where` begins the sentence of the ValueError for a wrong one."""
    known = {ours: number(entry[name], f"{where}: {name}") for name, ours in NUMBERS.items() if _given(entry, name)}
    strength = number(entry.get("strength", 1.0), f"{where}: strength")
    calibration = read_calibration(entry["calibration"], where) if _given(entry, "calibration") else None
    try:
        return Edit(entry["feature"], strength, **known, unit=entry.get("unit") or None, calibration=calibration)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def read_calibration(found: Any, where: str) -> Calibration:
    if not isinstance(found, dict) or set(found) != set(_CALIBRATION):
        raise ValueError(f"{where}: calibration needs {', '.join(_CALIBRATION)}, but {quoted(found)} came.")
    if not is_method(found["method"]):
        raise ValueError(
            f"{where}: calibration with {quoted(found['method'])} came; a known method is needed, one of "
            f"{', '.join(METHODS)}."
        )
    low, clear, high = (number(found[end], f"{where}: {end}") for end in _CALIBRATION[1:])
    try:
        return Calibration(found["method"], low, clear, high)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def number(value: Any, what: str) -> float:
    if not is_number(value, LARGEST):
        raise ValueError(f"{what} is {quoted(value)}, but a finite number is needed.")
    return float(value)


def _given(entry: Mapping[str, Any], name: str) -> bool:
    return entry.get(name) is not None

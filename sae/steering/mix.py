"""The value of FeatureMixer: a list of features with their sliders, as one JSON text that needs no browser to run.

An object with `rows`, a list of objects with `feature` (index) and, each optional, `strength` (1), `on` (true), `unit`,
`name` (for the reader only), `mean`, `max`, `share` and `calibration` (method, low, clear, high). A row without a unit
takes the best that is known of its feature: calibrated, else max, else token_norm.
"""

from __future__ import annotations

from typing import Any

from ..dictionary.statistics import FeatureStatistics
from ..files.small_json import parse_object
from .edits import Calibration, Edit, FeatureList, Unit

EMPTY = '{"rows": []}'
MOST_ROWS = 500
MOST_CHARACTERS = 1_000_000
_NUMBERS = {"mean": "mean", "max": "max", "share": "density"}  # in a row, in an Edit
_KEYS = {"feature", "strength", "on", "unit", "name", "calibration", *_NUMBERS}


def parse_mix(text: str, d_sae: int, statistics: FeatureStatistics | None = None) -> FeatureList:
    """The edits of the rows that are on, in their order; ValueError, in one sentence, for any other text.

    Where no row is on, the list is empty and says so: whoever steers with it then leaves things as they are.
    """
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise ValueError(f"mix: a JSON text of up to {MOST_CHARACTERS:,} characters is needed, such as {EMPTY}.")
    content = parse_object(text, "mix: the text")
    rows = content.get("rows")
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        raise ValueError(f"mix: its rows must be a list of up to {MOST_ROWS} features, such as {EMPTY}.")
    edits = [_edit(row, number, d_sae, statistics) for number, row in enumerate(rows, 1)]
    on = [edit for edit, row in zip(edits, rows, strict=True) if row.get("on", True)]
    return FeatureList(on, muted=not on)


def _edit(row: Any, number: int, d_sae: int, statistics: FeatureStatistics | None) -> Edit:
    where = f"mix: row {number}"
    if not isinstance(row, dict) or "feature" not in row or not set(row) <= _KEYS:
        raise ValueError(f"{where} must be an object with feature and, each optional, {', '.join(sorted(_KEYS))}.")
    feature = row["feature"]
    if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < d_sae:
        raise ValueError(f"{where} names feature {str(feature)[:40]!r}, but the SAE has 0 to {d_sae - 1}.")
    if not isinstance(row.get("on", True), bool) or not isinstance(row.get("name", ""), str):
        raise ValueError(f"{where}: on must be true or false, and name a text.")
    known = {
        ours: _number(row[name], f"{where}: {name}") for name, ours in _NUMBERS.items() if row.get(name) is not None
    }
    calibration = _calibration(row.get("calibration"), where)
    unit = row.get("unit") or _best_unit(feature, known, calibration, statistics)
    try:
        return Edit(feature, _number(row.get("strength", 1.0), f"{where}: strength"), **known, unit=unit,
                    calibration=calibration)  # fmt: skip
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _best_unit(
    feature: int, known: dict[str, float], calibration: Calibration | None, statistics: FeatureStatistics | None
) -> Unit:
    if calibration is not None:
        return "calibrated"
    stored = None if statistics is None or statistics.max is None else float(statistics.max[feature])
    return "max" if known.get("max", stored) else "token_norm"


def _calibration(found: Any, where: str) -> Calibration | None:
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != {"method", "low", "clear", "high"}:
        raise ValueError(f"{where}: calibration needs method, low, clear and high.")
    low, clear, high = (_number(found[end], f"{where}: {end}") for end in ("low", "clear", "high"))
    try:
        return Calibration(found["method"], low, clear, high)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise ValueError(f"{what} is {str(value)[:40]!r}, but a finite number is needed.")
    return float(value)

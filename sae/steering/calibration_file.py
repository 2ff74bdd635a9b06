"""Usable ranges of features, kept beside the labels: one file for each SAE's fingerprint.

Format 2 is a list `calibrations` of objects with feature, method, low, clear, high and, where known, site, model and
replaces. Format 1, which is still read, had `methods`: by method and feature, whatever they were measured on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files.quote import quoted, shown
from ..files.small_json import is_number, read_json, update_json
from .edits import METHODS, Calibration, Method
from .measured import Measured, Setting

FORMAT, VERSION = "sae-steering calibration", 2
SUFFIX = ".calibration.json"
LONGEST = 1000  # of a site, which may list every block
_ENDS = {"low", "clear", "high"}
_NEEDED = {"feature", "method", *_ENDS}
_SETTING = {"site", "model", "replaces"}


def read_calibrations(path: Path, fingerprint: str) -> list[Measured]:
    """What the file holds, the newest last; ValueError when it is broken, or was measured with another SAE."""
    content, name = read_json(path, "calibration file"), shown(path.name)
    version = content.get("version")
    if content.get("format") != FORMAT or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(f"{name}: it is no calibration file of version 1 to {VERSION}; update the pack.")
    if content.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{name}: it was measured with the SAE {quoted(content.get('fingerprint'), 12)}…, but this one is "
            f"{fingerprint[:12]}…; calibrate this SAE."
        )
    if version == 1:
        return list(_of_version_1(content.get("methods"), name))
    entries = content.get("calibrations")
    if not isinstance(entries, list):
        raise ValueError(f"{name}: its calibrations must be a list.")
    return [_entry(entry, name) for entry in entries]


def _of_version_1(methods: Any, name: str) -> Iterator[Measured]:
    if not isinstance(methods, Mapping) or not set(methods) <= set(METHODS):
        raise ValueError(f"{name}: its methods must be an object with some of {', '.join(METHODS)}.")
    for method, entries in methods.items():
        if not isinstance(entries, Mapping):
            raise ValueError(f"{name}: its calibrations for {method} must be an object, index to low, clear and high.")
        for key, ends in entries.items():
            if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 9):
                raise ValueError(
                    f"{name}: {quoted(key, 40)} is not the index of a feature; use whole numbers from 0 up."
                )
            if not isinstance(ends, Mapping) or set(ends) != _ENDS:
                raise ValueError(f"{name}: feature {key} needs the numbers low, clear and high.")
            yield Measured(int(key), _calibration(method, ends, f"{name}: feature {key}"), Setting())


def _entry(entry: Any, name: str) -> Measured:
    if not isinstance(entry, Mapping) or not _NEEDED <= set(entry) <= _NEEDED | _SETTING:
        raise ValueError(
            f"{name}: each calibration needs {', '.join(sorted(_NEEDED))}, and may have {', '.join(sorted(_SETTING))}."
        )
    feature, method = entry["feature"], entry["method"]
    if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < 10**9:
        raise ValueError(f"{name}: {quoted(feature, 40)} is not the index of a feature; use whole numbers from 0 up.")
    where = f"{name}: feature {feature}"
    if method not in METHODS:
        raise ValueError(f"{where}: its method is {quoted(method, 40)}; use one of {', '.join(METHODS)}.")
    setting = {key: entry[key] for key in _SETTING & set(entry)}
    if not all(isinstance(value, str) and len(value) <= LONGEST for value in setting.values()):
        raise ValueError(f"{where}: site, model and replaces must be texts of up to {LONGEST} characters.")
    return Measured(feature, _calibration(method, entry, where), Setting(**setting))


def _calibration(method: Method, ends: Mapping[str, Any], where: str) -> Calibration:
    values = [ends[end] for end in ("low", "clear", "high")]
    if not all(map(is_number, values)):
        raise ValueError(f"{where} needs the numbers low, clear and high.")
    try:
        return Calibration(method, *values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def update_calibrations(path: Path, fingerprint: str, new: Mapping[int, Calibration], setting: Setting) -> str:
    """Writes calibrations over those of the same feature, method and setting, and keeps all others.

    Gives back what became of a broken file, which is renamed, else nothing.
    """
    added = [Measured(feature, calibration, setting) for feature, calibration in new.items()]
    keys = set(map(_key, added))

    def changed(known: list[Measured] | None) -> dict[str, Any]:
        kept = [measured for measured in known or [] if _key(measured) not in keys]
        entries = [_written(measured) for measured in (*kept, *added)]
        return {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "calibrations": entries}

    return update_json(path, lambda file: read_calibrations(file, fingerprint), changed)


def _key(measured: Measured) -> tuple[int, Method, Setting]:
    return measured.feature, measured.calibration.method, measured.setting


def _written(measured: Measured) -> dict[str, Any]:
    setting = {key: value for key, value in asdict(measured.setting).items() if value is not None}
    return {"feature": measured.feature, **asdict(measured.calibration), **setting}

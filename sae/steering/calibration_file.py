"""Usable ranges of features, kept beside the labels: one file for each SAE's fingerprint, by method and feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files.small_json import read_json, update_json
from .edits import METHODS, Calibration, Method

FORMAT, VERSION = "sae-steering calibration", 1
SUFFIX = ".calibration.json"

Calibrations = dict[Method, dict[int, Calibration]]


def read_calibrations(path: Path, fingerprint: str) -> Calibrations:
    """What the file holds; ValueError when it is broken, or was measured with another SAE."""
    content = read_json(path, "calibration file")
    version = content.get("version")
    if content.get("format") != FORMAT or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise ValueError(f"{path.name}: it is no calibration file of version 1 to {VERSION}; update the pack.")
    if content.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{path.name}: it was measured with the SAE {str(content.get('fingerprint'))[:12]}…, but this one is "
            f"{fingerprint[:12]}…; calibrate this SAE."
        )
    methods = content.get("methods")
    if not isinstance(methods, Mapping) or not set(methods) <= set(METHODS):
        raise ValueError(f"{path.name}: its methods must be an object with some of {', '.join(METHODS)}.")
    return {method: dict(_entries(entries, method, path.name)) for method, entries in methods.items()}


def _entries(entries: Any, method: Method, name: str) -> list[tuple[int, Calibration]]:
    if not isinstance(entries, Mapping):
        raise ValueError(f"{name}: its calibrations for {method} must be an object, index to low, clear and high.")
    found = []
    for key, value in entries.items():
        if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 9):
            raise ValueError(f"{name}: {str(key)[:40]!r} is not the index of a feature; use whole numbers from 0 up.")
        if not isinstance(value, Mapping) or set(value) != {"low", "clear", "high"} or not _numbers(value.values()):
            raise ValueError(f"{name}: feature {key} needs the numbers low, clear and high.")
        try:
            found.append((int(key), Calibration(method, **value)))
        except ValueError as error:
            raise ValueError(f"{name}: feature {key}: {error}") from error
    return found


def _numbers(values: Any) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def update_calibrations(path: Path, fingerprint: str, new: Mapping[int, Calibration]) -> str:
    """Writes calibrations over those that are there; what became of a broken file, which is renamed, else nothing."""

    def changed(known: Calibrations | None) -> dict[str, Any]:
        all_ = known or {}
        for index, calibration in new.items():
            all_.setdefault(calibration.method, {})[index] = calibration
        methods = {method: {str(k): _slim(c) for k, c in sorted(entries.items())} for method, entries in all_.items()}
        return {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "methods": methods}

    return update_json(path, lambda file: read_calibrations(file, fingerprint), changed)


def _slim(calibration: Calibration) -> dict[str, float]:
    return {name: value for name, value in asdict(calibration).items() if name != "method"}

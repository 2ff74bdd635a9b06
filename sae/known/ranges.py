"""Calibrations with what they were measured on: of several for one feature, only those that fit are handed out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files.quote import quoted, shown
from ..files.small_json import is_number, read_json, update_json
from ..places.site import Site
from ..steering.edits import Calibration, Edit, Method
from ..steering.methods import METHODS, is_method

Calibrations = dict[Method, dict[int, Calibration]]

DIGITS = 16


UNKNOWN = "calibrated by version 0.1, which did not note on which model and where; run Calibrate Strength again."
SEVERAL = (
    "calibrated on several models, at several places or for several replaced features; which is meant is known after "
    "the graph has steered once."
)
ELSEWHERE = "calibrated on another model, at another place or for other replaced features; run Calibrate Strength here."


@dataclass(frozen=True)
class Setting:
    """What a calibration depends on beside the SAE and the method; None is not known."""

    site: str | None = None
    model: str | None = None  # its identity
    replaces: str | None = None  # see `mark_of_replaced`; matters to methods that need such a list


@dataclass(frozen=True)
class Measured:
    """A feature's calibration, and the setting in which it was measured."""

    feature: int
    calibration: Calibration
    setting: Setting

    def _sides(self, other: Setting) -> list[tuple[str | None, str | None]]:
        mine = self.setting
        sides = [(mine.site, other.site), (mine.model, other.model)]
        needed = METHODS[self.calibration.method].needs_replaces
        return [*sides, (mine.replaces, other.replaces)] if needed else sides

    def may_fit(self, other: Setting) -> bool:
        """Nothing that is known of both differs."""
        return all(mine == theirs for mine, theirs in self._sides(other) if None not in (mine, theirs))

    @property
    def noted(self) -> bool:
        """All of its setting is known; version 0.1 noted nothing."""
        return None not in [mine for mine, _ in self._sides(Setting())]


def setting_of(site: Site, model: str, replaces: Sequence[Edit] | None = None) -> Setting:
    """`replaces`: what swap takes out, empty for nothing; None where that is not known."""
    return Setting(str(site), model, None if replaces is None else mark_of_replaced(replaces))


def mark_of_replaced(replaces: Sequence[Edit]) -> str:
    """16 hexadecimal digits for the features that swap takes out and their weights, to two digits; "" for none.

    Their order does not matter, nor do their means, which differ a little from prompt to prompt.
    """
    if not replaces:
        return ""
    text = ";".join(f"{feature}×{weight:.2g}" for feature, weight in sorted((e.feature, e.strength) for e in replaces))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def fitting(known: Iterable[Measured], wanted: Setting) -> tuple[Calibrations, list[str]]:
    """The calibrations that fit a setting, and what to tell of them.

    Those of which the setting was not noted come where there is no better one, with a warning. Where `wanted` leaves
    open which of several is meant, none is handed out.
    """
    candidates: dict[tuple[Method, int], list[Measured]] = {}
    for measured in known:
        if measured.may_fit(wanted):
            candidates.setdefault((measured.calibration.method, measured.feature), []).append(measured)
    found: Calibrations = {}
    unknown: list[int] = []
    several: list[int] = []
    for (method, feature), all_ in candidates.items():
        best = [measured for measured in all_ if measured.noted] or all_
        if len(best) > 1:
            several.append(feature)
            continue
        found.setdefault(method, {})[feature] = best[0].calibration
        if not best[0].noted:
            unknown.append(feature)
    return found, [*_told(unknown, UNKNOWN), *_told(several, SEVERAL)]


def misfits(known: Iterable[Measured], used: Iterable[Edit], setting: Setting) -> list[str]:
    """Warnings of edits whose stored calibration was measured in another setting; others may come from anywhere."""
    all_ = list(known)
    unknown, elsewhere = [], []
    for edit in used:
        same = [m for m in all_ if (m.feature, m.calibration) == (edit.feature, edit.calibration)]
        fit = [m for m in same if m.may_fit(setting)]
        if same and not fit:
            elsewhere.append(edit.feature)
        elif fit and not any(m.noted for m in fit):
            unknown.append(edit.feature)
    return [*_told(unknown, UNKNOWN), *_told(elsewhere, ELSEWHERE)]


def _told(features: list[int], sentence: str) -> list[str]:
    return [f"{_named(features)}: {sentence}"] if features else []


def _named(features: list[int]) -> str:
    return f"Feature {', '.join(map(str, sorted(set(features))))}"


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
    if not is_method(method):
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

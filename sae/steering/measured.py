"""Calibrations with what they were measured on: of several for one feature, only those that fit are handed out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..places.site import Site
from .edits import Calibration, Edit, Method

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
    replaces: str | None = None  # see `mark_of_replaced`; matters to swap only


@dataclass(frozen=True)
class Measured:
    """A feature's calibration, and the setting in which it was measured."""

    feature: int
    calibration: Calibration
    setting: Setting

    def _sides(self, other: Setting) -> list[tuple[str | None, str | None]]:
        mine = self.setting
        sides = [(mine.site, other.site), (mine.model, other.model)]
        return [*sides, (mine.replaces, other.replaces)] if self.calibration.method == "swap" else sides

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

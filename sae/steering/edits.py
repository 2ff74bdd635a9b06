"""Edits: which features to steer, how strongly, and in which unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..dictionary.owner import Owner
from ..dictionary.statistics import FeatureStatistics
from ..files.quote import quoted
from ..files.small_json import is_number

Method = str  # the name of one in `methods`
Unit = Literal["token_norm", "raw", "mean", "max", "calibrated", "auto"]
Auto = Literal["auto"]

MOST_FEATURES = 10**9  # of an index, which may come from a file
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Calibration:
    """A feature's usable range with one method, as strengths in the method's own unit: token_norm, for swap none.

    `low` is the smallest that changes the picture, `clear` where it is clearly there, `high` the largest before the
    picture falls apart.
    """

    method: Method
    low: float
    clear: float
    high: float

    def __post_init__(self) -> None:
        ends = (self.low, self.clear, self.high)
        if not all(is_number(end) for end in ends):
            raise ValueError(f"calibration: {quoted(ends)} came; three finite numbers are needed.")
        if not 0 <= self.low <= self.clear <= self.high or self.clear == 0:
            raise ValueError(
                f"calibration: {quoted(ends)} is none; 0 ≤ low ≤ clear ≤ high is needed, and clear above 0."
            )


@dataclass(frozen=True)
class Edit:
    """One feature with a strength, and its own activation where that was measured in the graph.

    `mean` is taken over the tokens where the feature fires, `density` is the share of such tokens. `unit` is what the
    strength is given in; None leaves that to the steering.
    """

    feature: int
    strength: float = 1.0
    mean: float | None = None
    max: float | None = None
    density: float | None = None
    unit: Unit | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if isinstance(self.feature, bool) or not isinstance(self.feature, int) or not 0 <= self.feature < MOST_FEATURES:
            raise ValueError(
                f"feature: {quoted(self.feature)} is not a feature; give its index, a whole number from 0 up."
            )
        if not is_number(self.strength):
            raise ValueError(
                f"strength: {quoted(self.strength)} is not a finite number; feature {self.feature} needs one."
            )
        if self.unit is not None and self.unit not in UNITS:
            raise ValueError(f"unit: {quoted(self.unit)} is not a unit; use one of {', '.join(UNITS)}.")

    @property
    def has_activations(self) -> bool:
        """Whether it brings numbers that were measured on a dictionary."""
        return (self.mean, self.max, self.density, self.calibration) != (None, None, None, None)

    def __str__(self) -> str:
        return f"feature {self.feature} × {self.strength:g}{f' {self.unit}' if self.unit else ''}"


class FeatureList(list[Edit]):
    """The object on a SAE_FEATURES socket: edits in the order they were chosen, and the dictionary they belong to.

    A `muted` one is empty because all its features were switched off: nothing is to be steered, and nothing is wrong.
    Without an `owner` nobody said whose the features are: numbers that a user typed, or a file of version 0.1.
    """

    def __init__(
        self,
        edits: Iterable[Edit] = (),
        muted: bool = False,
        owner: Owner | None = None,
        warnings: Iterable[str] = (),
    ) -> None:
        super().__init__(edits)
        self.muted = muted
        self.owner = owner
        self._warnings = tuple(warnings)

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "no features"

    def plus(self, *edits: Edit) -> FeatureList:
        """A new list with more edits of the same owner; this one stays as it is."""
        return FeatureList([*self, *edits], owner=self.owner, warnings=self._warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever uses the list must be told, such as that nobody knows whose its numbers are."""
        told = [edit.feature for edit in self if edit.has_activations]
        if self.owner is not None or not told:
            return self._warnings
        names = ", ".join(map(str, told[:5])) + (" …" if len(told) > 5 else "")
        return (
            *self._warnings,
            f"Nothing says which SAE the activations and ranges of feature {names} were measured on; if it was another "
            "one, find the features again.",
        )


def check_owner(edits: Iterable[Edit], owner: Owner, name: str) -> None:
    """Raises ValueError where the edits of the input `name` are known to belong to another dictionary than `owner`."""
    if isinstance(edits, FeatureList):
        owner.check(edits.owner, f"{name}: they belong")


def check_features(edits: Iterable[Edit], count: int, name: str) -> None:
    """Raises ValueError where the dictionary `name` with `count` features lacks one."""
    beyond = next((edit.feature for edit in edits if edit.feature >= count), None)
    if beyond is not None:
        raise ValueError(
            f"features: feature {beyond} does not exist in {name}, which has the features 0 to {count - 1}."
        )


def measured_values(
    edits: Sequence[Edit], name: str, statistics: FeatureStatistics | None = None
) -> list[float | None]:
    """One statistic of each edit's feature; what was measured in the graph comes before the dictionary's file."""
    values: list[float | None] = [getattr(edit, name) for edit in edits]
    stored = None if statistics is None else getattr(statistics, name)
    if stored is None:
        return values
    return [float(stored[edit.feature]) if v is None else v for edit, v in zip(edits, values, strict=True)]

"""Edits: which features to steer, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One feature with a strength, and its own activation where that was measured in the graph.

    `mean` is taken over the tokens where the feature fires, `share` is the share of such tokens.
    """

    feature: int
    strength: float = 1.0
    mean: float | None = None
    max: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.feature, bool) or not isinstance(self.feature, int) or self.feature < 0:
            raise ValueError(f"feature: {self.feature!r} is not a feature; give its index, a whole number from 0 up.")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength: {self.strength} is not a finite number; feature {self.feature} needs one.")

    def __str__(self) -> str:
        return f"feature {self.feature} × {self.strength:g}"


class FeatureList(list[Edit]):
    """The object on a SAE_FEATURES socket: edits in the order they were chosen."""

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        super().__init__(edits)

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "no features"

    def plus(self, edit: Edit) -> FeatureList:
        """A new list with one more edit; this one stays as it is."""
        return FeatureList([*self, edit])

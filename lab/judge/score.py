"""How often pictures changed as they should, and how often the rest stayed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .kept import KEPT, kept_attributes
from .reader import Readings


@dataclass
class Score:
    """Counts over pictures: the target's colour, each attribute as before, all of them, and both (strict)."""

    pictures: int = 0
    changed: int = 0
    strict: int = 0
    all_kept: int = 0
    kept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEPT, 0))
    ratio: float = 0.0  # sum of the runs' mean ‖Δ‖/‖x‖
    runs: int = 0

    def add(self, before: Readings, after: Readings, target: str, ratio: float = 0.0) -> None:
        for picture, same in zip(after.prompts, kept_attributes(before, after), strict=True):
            all_kept = all(same.values())
            self.pictures += 1
            self.changed += picture.colour == target
            self.all_kept += all_kept
            self.strict += all_kept and picture.colour == target
            for slot, kept in same.items():
                self.kept[slot] += kept
        self.ratio += ratio
        self.runs += 1

    def share(self, count: int) -> float:
        return count / max(self.pictures, 1)

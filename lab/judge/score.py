"""How often pictures changed as they should, and how often the rest stayed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .kept import kept_attributes, kept_slots
from .reader import Readings


@dataclass
class Score:
    """Counts over pictures: the target's word, each other attribute as before, all of them, and both (strict)."""

    changes: str = "colour"  # the kind of word that is to change
    pictures: int = 0
    changed: int = 0
    strict: int = 0
    all_kept: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    ratio: float = 0.0  # sum of the runs' mean ‖Δ‖/‖x‖
    runs: int = 0

    def __post_init__(self) -> None:
        self.kept = dict.fromkeys(kept_slots(self.changes), 0) | self.kept

    def add(self, before: Readings, after: Readings, target: str, ratio: float = 0.0) -> None:
        for picture, same in zip(after.prompts, kept_attributes(before, after, self.changes), strict=True):
            all_kept, changed = all(same.values()), getattr(picture, self.changes) == target
            self.pictures += 1
            self.changed += changed
            self.all_kept += all_kept
            self.strict += all_kept and changed
            for slot, kept in same.items():
                self.kept[slot] += kept
        self.ratio += ratio
        self.runs += 1

    def share(self, count: int) -> float:
        return count / max(self.pictures, 1)

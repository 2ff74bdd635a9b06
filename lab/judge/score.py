"""How often pictures changed as they should, and how often the rest stayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from sae.demo.shapes import SLOTS

from .reader import Readings

# Of the outlines' intersection over union. Two kinds of shape at one place and of one area overlap by 0.84 at most
# (circle and square), so a shape that turned into another kind cannot pass.
SAME_OUTLINE = 0.85
OUTLINED = ("colour", "background")  # changes that leave the outline where it was


def kept_slots(changed: str = "colour") -> tuple[str, ...]:
    """The kinds of word that a change of one of them has to leave alone."""
    return tuple(slot for slot in SLOTS if slot != changed)


KEPT = kept_slots()


def kept_attributes(before: Readings, after: Readings, changed: str = "colour") -> Iterator[dict[str, bool]]:
    """For each picture, whether everything but `changed` stayed. What cannot be read did not.

    The shape's outline is compared with the unsteered one's, whatever its kind, where the change leaves it in its
    place; all else by their words.
    """
    overlaps = outline_overlap(before.masks, after.masks).tolist()
    for old, new, overlap in zip(before.prompts, after.prompts, overlaps, strict=True):
        words = {slot: (getattr(old, slot), getattr(new, slot)) for slot in kept_slots(changed)}
        same = {slot: one is not None and one == other for slot, (one, other) in words.items()}
        yield same | {"shape": overlap >= SAME_OUTLINE} if changed in OUTLINED else same


def outline_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union (batch,) of masks (batch, 1, side, side) bool; 0 where there is no shape."""
    union = (one | other).flatten(1).sum(1)
    return (one & other).flatten(1).sum(1) / union.clamp_min(1)


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

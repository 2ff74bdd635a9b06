"""What steering changed and what it kept, judged by comparing a picture with its unsteered twin."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .reader import Readings

KEPT = ("shape", "place", "size", "background")
# Of the outlines' intersection over union. Two kinds of shape at one place and of one area overlap by 0.84 at most
# (circle and square), so a shape that turned into another kind cannot pass.
SAME_OUTLINE = 0.85


def kept_attributes(before: Readings, after: Readings) -> Iterator[dict[str, bool]]:
    """For each picture, whether shape, place, size and background stayed. What cannot be read did not.

    The shape's outline is compared with the unsteered one's, whatever its kind; the others by their words.
    """
    overlaps = outline_overlap(before.masks, after.masks).tolist()
    for old, new, overlap in zip(before.prompts, after.prompts, overlaps, strict=True):
        words = {slot: (getattr(old, slot), getattr(new, slot)) for slot in KEPT[1:]}
        same = {slot: one is not None and one == other for slot, (one, other) in words.items()}
        yield {"shape": overlap >= SAME_OUTLINE, **same}


def outline_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union (batch,) of masks (batch, 1, side, side) bool; 0 where there is no shape."""
    union = (one | other).flatten(1).sum(1)
    return (one & other).flatten(1).sum(1) / union.clamp_min(1)

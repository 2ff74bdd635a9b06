"""A sweep's plan: which pictures a sheet of features by strengths needs, with its two controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .edits import Edit

MOST_PICTURES = 400


class Cell(NamedTuple):
    """One steered picture of a sheet; `random` is the control that moves as far along a random direction."""

    row: int
    column: int
    edit: Edit
    strength: float
    random: bool


def parse_strengths(text: str) -> list[float]:
    """`0.1, 0.2, -0.4` -> numbers, in the order given; ValueError for anything else."""
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    try:
        strengths = [float(part) for part in parts]
    except ValueError as error:
        raise ValueError(f"strengths: {text!r} is no list of numbers; write some such as 0.1, 0.2, 0.4.") from error
    if not strengths or not all(math.isfinite(strength) for strength in strengths):
        raise ValueError(f"strengths: {text!r} is no list of finite numbers; write some such as 0.1, 0.2, 0.4.")
    return strengths


def plan(edits: Sequence[Edit], strengths: Sequence[float], random: bool) -> list[Cell]:
    """All steered cells, row by row: a row a feature, a column a strength, and the control of the largest one last."""
    if not edits:
        raise ValueError("features: the list is empty; connect SAEFeature or TopActivatingFeatures.")
    count = 1 + len(edits) * (len(strengths) + random)
    if count > MOST_PICTURES:
        raise ValueError(
            f"strengths: {len(edits)} features by {len(strengths)} strengths are {count} pictures; a sheet has "
            f"{MOST_PICTURES} at most, so give fewer."
        )
    return list(_cells(edits, strengths, random))


def _cells(edits: Sequence[Edit], strengths: Sequence[float], random: bool) -> Iterator[Cell]:
    largest = max(strengths, key=abs)
    for row, edit in enumerate(edits):
        for column, strength in enumerate(strengths):
            yield Cell(row, column, edit, strength, False)
        if random:
            yield Cell(row, len(strengths), edit, largest, True)


def captions(strengths: Sequence[float], random: bool) -> list[str]:
    """Of the columns, the unsteered picture first."""
    found = ["unsteered", *(f"{strength:g}" for strength in strengths)]
    return [*found, f"random direction\nas {max(strengths, key=abs):g}"] if random else found

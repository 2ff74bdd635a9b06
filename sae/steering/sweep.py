"""A sweep: which pictures a sheet of features by strengths needs, with its two controls, and the drawing of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..places.progress import OnProgress, steps_of, unheard
from .draw import Draw
from .edits import Edit
from .intervention import Intervention

MOST_PICTURES = 400
RANDOM_SEED = 7  # of the control's direction


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


def draw_cells(
    draw: Draw,
    cells: Sequence[Cell],
    steering: Callable[[Cell], Intervention],
    on_progress: OnProgress = unheard,
    random_seed: int = RANDOM_SEED,
) -> Iterator[tuple[int, Tensor]]:
    """Rows and what was drawn for them, (batch, 3, height, width), each as soon as it is there.

    Every row gets the unsteered drawing, which is made once, then its cells' in their order.
    """
    total = 1 + len(cells)
    unsteered = draw(None, None, steps_of(on_progress, 0, total)).result
    for row in dict.fromkeys(cell.row for cell in cells):
        yield row, unsteered
    for done, cell in enumerate(cells, 1):
        control = random_seed if cell.random else None
        yield cell.row, draw(steering(cell), control, steps_of(on_progress, done, total)).result

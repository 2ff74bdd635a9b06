"""A sweep: which pictures a sheet of features by strengths needs, with its two controls, and the drawing of them.

A row steers as Activation Steer does with the row's features at the row's places. The first rows have all features
together, the others one each. With `swap` a row takes everything in `replaces` out, whatever it puts in: with
R = Σ_j w_j f_j d_j the rows of single features are

    Δ_k = s · (g · w_k m_k d_k - R),    and together    Δ = Σ_k Δ_k + (n - 1) · s · R,

so a single feature's row answers whether this feature alone, as strong as it naturally is, stands for what was taken
out. Where no row but the first turns, it takes several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from torch import Tensor

from ..dictionary.sae_set import AnySae, Member, SaeSet
from ..places.moment import OnProgress, unheard
from .edits import Edit
from .host_calls import Draw, Steered, draw_each
from .intervention import Intervention
from .methods import METHODS
from .set_up import Wanted

MOST_PICTURES = 400
RANDOM_SEED = 7  # of the control's direction


@dataclass(frozen=True)
class Row:
    """What the pictures of one row are steered with: all features together, or one of them."""

    wanted: Wanted
    sae: AnySae
    members: Sequence[Member]

    def at(self, strength: float) -> Sequence[Intervention]:
        return replace(self.wanted, strength=strength).at(self.sae, self.members).interventions


class Cell(NamedTuple):
    """One steered picture of a sheet; `random` is the control that moves as far along a random direction."""

    row: int
    column: int
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


def rows_of(sae: AnySae, places: Sequence[Sequence[Member]], wanted: Wanted) -> list[Row]:
    """For each of the places all features together, where there are several; then for each place a row a feature.

    A place is what `members_at` gives, of a set the members that act together. Of a set each feature is steered at its
    own member; one that has none here, or with `swap` nothing to take out there, has no row. ValueError as `Wanted.at`.
    """
    wanted.at(sae, list(chain(*places)))  # told before anything is drawn
    acting = [(members, _acting(wanted, sae, members)) for members in places]
    together = [Row(wanted, sae, members) for members, edits in acting if len(edits) > 1]
    return together + [
        Row(replace(wanted, features=[edit]), sae, _own(edit, sae, members))
        for members, edits in acting
        for edit in edits
    ]


def _acting(wanted: Wanted, sae: AnySae, members: Sequence[Member]) -> list[Edit]:
    """The features that can be steered at these places."""
    if not isinstance(sae, SaeSet):
        return list(wanted.features)
    needed = METHODS[wanted.method].needs_replaces
    fit = [m for m in members if not needed or any(edit.feature in m for edit in wanted.replaces)]
    return [edit for member in fit for edit in wanted.features if edit.feature in member]


def _own(edit: Edit, sae: AnySae, members: Sequence[Member]) -> Sequence[Member]:
    return [member for member in members if not isinstance(sae, SaeSet) or edit.feature in member]


def plan(rows: int, strengths: Sequence[float], random: bool) -> list[Cell]:
    """All steered cells, row by row: a column a strength, and the control of the largest one last."""
    count = 1 + rows * (len(strengths) + random)
    if count > MOST_PICTURES:
        raise ValueError(
            f"strengths: {rows} rows by {len(strengths)} strengths are {count} pictures; a sheet has {MOST_PICTURES} "
            "at most, so give fewer."
        )
    return list(_cells(rows, strengths, random))


def _cells(rows: int, strengths: Sequence[float], random: bool) -> Iterator[Cell]:
    for row in range(rows):
        for column, strength in enumerate(strengths):
            yield Cell(row, column, strength, False)
        if random:
            yield Cell(row, len(strengths), max(strengths, key=abs), True)


def captions(strengths: Sequence[float], random: bool) -> list[str]:
    """Of the columns, the unsteered picture first."""
    found = ["unsteered", *(f"{strength:g}" for strength in strengths)]
    return [*found, f"random direction\nas {max(strengths, key=abs):g}"] if random else found


def draw_rows(
    draw: Draw,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    on_progress: OnProgress = unheard,
    random_seed: int = RANDOM_SEED,
) -> Iterator[tuple[int, Tensor]]:
    """Rows and what was drawn for them, (batch, 3, height, width), each as soon as it is there.

    Every row gets the unsteered drawing, which is made once, then its cells' in their order.
    """
    several = [Steered(rows[cell.row].at(cell.strength), random_seed if cell.random else None) for cell in cells]
    drawings = draw_each(draw, [Steered(), *several], on_progress, 0, 1 + len(cells))
    unsteered = next(drawings).result
    for row in dict.fromkeys(cell.row for cell in cells):
        yield row, unsteered
    for cell, drawn in zip(cells, drawings, strict=True):
        yield cell.row, drawn.result

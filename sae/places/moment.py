"""When steering acts: one call of the model, the part of a run, the side of guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Side = Literal["both", "cond", "uncond", "opposite"]
SIDES: tuple[Side, ...] = get_args(Side)
COND, UNCOND = 0, 1
NEITHER, UNKNOWN = 2, -1  # a prompt beside the two sides; one of which nobody knows on which side it is
SIGMA_ROUNDING = 1e-6  # a step's float32 sigma may lie this much beside the bound that it stands on


@dataclass(frozen=True)
class Crop:
    """Where a part of the picture lies in the whole, in the same cells as the latent of a Moment."""

    top: int
    left: int
    picture_height: int
    picture_width: int


@dataclass(frozen=True)
class Moment:
    """One call of the model: its noise level, which rows are which side, and how its tokens lie.

    `sides` holds COND, UNCOND, NEITHER or UNKNOWN for each equal part of the batch, in order. `crops`
    holds for each of them where its latent lies in the whole picture, None where that is not known; it is empty where
    all of them are the whole picture. A video has `latent_frames` pictures, one after the other, in steps of a token.
    `lead` tokens of reference pictures lie before the main picture, those behind it are not counted. `own_grid` are
    the rows and columns of tokens at a site of a UNet, whose sites differ in them; else a token covers two cells each
    way.
    """

    sigma: float
    sides: tuple[int, ...]
    text_tokens: int
    latent_height: int
    latent_width: int
    crops: tuple[Crop | None, ...] = ()
    latent_frames: int = 1
    lead: int = 0
    own_grid: tuple[int, int] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; odd latents are padded up."""
        return self.own_grid or (-(-self.latent_height // 2), -(-self.latent_width // 2))

    @property
    def image_tokens(self) -> int:
        """Tokens of the main picture, of all its frames."""
        return self.latent_frames * self.grid[0] * self.grid[1]

    def rows_of_a_side(self, batch: int) -> int:
        """Rows of the batch that each entry of `sides` stands for; ValueError where they do not divide it."""
        if not self.sides or batch % len(self.sides):
            raise ValueError(
                f"sides: {len(self.sides)} came for a batch of {batch} rows; give one for each equal part of the batch."
            )
        return batch // len(self.sides)

    def part(self, position: int) -> Moment:
        """The same call for one of its equal parts alone."""
        one = slice(position, position + 1)
        return replace(self, sides=self.sides[one], crops=self.crops[one])

    @property
    def unsided(self) -> tuple[int, ...]:
        """The positions of the parts of which nobody knows on which side of guidance they are."""
        return tuple(position for position, side in enumerate(self.sides) if side == UNKNOWN)

    @property
    def unplaced(self) -> tuple[int, ...]:
        """The positions of the parts of which nobody knows where in the picture they lie."""
        return tuple(position for position, crop in enumerate(self.crops) if crop is None)


@dataclass(frozen=True)
class Schedule:
    """The part of a run in which steering acts, as fractions of the run: 0 is its first step, 1 its end."""

    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_percent <= 1 or not 0 <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent, end_percent: {self.start_percent:g} and {self.end_percent:g} came, but both must lie "
                "between 0 and 1."
            )
        if self.start_percent > self.end_percent:
            raise ValueError(
                f"start_percent: {self.start_percent:g} lies after end_percent {self.end_percent:g}; the start must "
                "come first."
            )


WHOLE_RUN = Schedule()


@dataclass(frozen=True)
class SigmaWindow:
    """Noise levels at which steering acts; the start belongs to it and the end does not, so that windows can meet."""

    start: float = math.inf
    end: float = 0.0

    def __contains__(self, sigma: float) -> bool:
        return self.end < sigma - SIGMA_ROUNDING <= self.start


EVERY_SIGMA = SigmaWindow()


# The last argument is what a host can show of the run under way, such as a preview, or None.
OnStep = Callable[[float, Any], None]  # the share of the run that is done, after each step
OnProgress = Callable[[float, int, Any], None]  # runs that are done, and of how many


def unheard(*told: Any) -> None:
    """Nobody is told."""


def steps_of(on_progress: OnProgress, done: int, total: int, runs: int = 1) -> OnStep:
    """What to tell of the next `runs`, drawn as one batch, where `done` of `total` are behind."""

    def on_step(share: float, preview: Any = None) -> None:
        on_progress(done + share * runs, total, preview)

    return on_step

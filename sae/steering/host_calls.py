"""What a host must be able to do for the loops of this room: draw once more, with another steering and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..places.moment import OnProgress, OnStep, steps_of
from .intervention import Intervention
from .row_by_row import Alone


class Drawn(NamedTuple):
    """A drawing and what its steering did."""

    result: Tensor  # (batch, channels, height, width): pictures in 0..1, or latents where nothing decodes them
    ratio: float  # mean ‖Δ‖/‖x‖, 0 without steering


class Steered(NamedTuple):
    """How a drawing is steered: by all of the interventions at once, not at all without any.

    With `random_direction` each Δ keeps its length but points along one random direction, drawn from that seed.
    """

    interventions: Sequence[Intervention] = ()
    random_direction: int | None = None


class Draw(Protocol):
    """Draws from the same seeds and prompts at every call; only the steering differs."""

    def __call__(
        self, interventions: Sequence[Intervention], random_direction: int | None, on_step: OnStep
    ) -> Drawn:  # fmt: skip
        """Steered as `Steered` tells. `on_step` hears of each step; what it raises goes through to the caller."""
        ...


@runtime_checkable
class DrawsTogether(Protocol):
    """A `Draw` that can make several drawings in one run, each as if it were alone but for rounding."""

    def most(self) -> int:
        """How many, at least 1, it gains by drawing together, and has memory for."""

    def together(self, several: Sequence[Steered], on_step: OnStep) -> list[Drawn]: ...


def draw_each(
    draw: Draw, several: Sequence[Steered], on_progress: OnProgress, done: int, total: int
) -> Iterator[Drawn]:
    """The drawings in their order, together where `draw` can; `done` of `total` are behind when it begins."""
    most = draw.most() if isinstance(draw, DrawsTogether) else 1
    for first in range(0, len(several), most):
        part = several[first : first + most]
        on_step = steps_of(on_progress, done + first, total, len(part))
        if isinstance(draw, DrawsTogether):
            yield from draw.together(part, on_step)
        else:
            yield draw(*part[0], on_step)


Which = Literal["prompt", "baseline"]


@dataclass(frozen=True)
class Level:
    """A noise level of a run, and the latent (1, ...) of its first picture there, as the host's sampler has it."""

    sigma: float
    latent: Tensor


class Predict(Protocol):
    """Calls a model once, without guidance."""

    @property
    def most_rows(self) -> int:
        """How many rows one call may have, at least 1."""

    def __call__(self, which: Which, level: Level, rows: int, taps: Sequence[Alone] = ()) -> Tensor:
        """Predictions (rows, ...) for one of two prompts, from a level's latent in every row.

        What is predicted, noise, velocity or picture, is the host's; it is linear in the model's output. Raises
        ValueError where the model never comes to the site of a tap, and what the host raises where Cancel was pressed.
        """
        ...

"""What a host must be able to do for the loops of this room: draw once more, with another steering and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..places.progress import OnProgress, OnStep, steps_of
from .intervention import Intervention


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

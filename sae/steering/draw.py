"""What a host must be able to do for the loops of this room: draw once more, with another steering and nothing else."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ..places.progress import OnStep
from .intervention import Intervention


class Drawn(NamedTuple):
    """A drawing and what its steering did."""

    result: Tensor  # (batch, channels, height, width): pictures in 0..1, or latents where nothing decodes them
    ratio: float  # mean ‖Δ‖/‖x‖, 0 without steering


class Draw(Protocol):
    """Draws from the same seeds and prompts at every call; only the steering differs."""

    def __call__(self, intervention: Intervention | None, random_direction: int | None, on_step: OnStep) -> Drawn:
        """Unsteered without an intervention.

        With `random_direction` each Δ keeps its length but points along one random direction, drawn from that seed.
        `on_step` hears of each step; what it raises goes through to the caller.
        """
        ...

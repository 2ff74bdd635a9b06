"""What a host must be able to do for steering to be tried on single calls: predict from a latent of an earlier run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from .alone import Alone

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

"""Single calls of a MODEL from latents of runs that were sampled anyway, as the search by effect asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...places.reach import Reach
from ...steering.host_calls import Level, Which
from ...steering.row_by_row import Alone
from .drawing import first_of_batch
from .room import rows_within
from .sampling import Sampling, call_once, sigmas_of
from .steering import with_tap

MOST_ROWS = 8  # Cancel and the bar come between calls; more rows make no large model faster


def keeping(
    model: Model, how: Sampling, steps: Sequence[int], levels: list[Level], callback: Callable[..., None]
) -> Callable[..., None]:
    """The callback of a run of `how` that also puts the first picture's latents at these steps into `levels`."""
    sigmas = sigmas_of(model, how)

    def keep(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        if step in steps:
            levels.append(Level(float(sigmas[step]), x[:1].clone()))
        callback(step, denoised, x, total)

    return keep


@dataclass
class Predicting:
    """The `Predict` of a MODEL, from the `levels` that `keeping` noted in a run of `how`."""

    model: Model
    prompts: Mapping[Which, Any]
    latent: dict[str, Any]
    how: Sampling
    levels: Sequence[Level]

    @cached_property
    def most_rows(self) -> int:
        """As many as the memory that is free now has room for, by the model's own estimate; 1 where it has none."""
        return rows_within(self.model, self.levels[0].latent.shape[1:], MOST_ROWS)

    def __call__(self, which: Which, level: Level, rows: int, taps: Sequence[Alone] = ()) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        model = self.model
        for tap in taps:
            model = with_tap(model, tap, tap.dictionary, Reach.check)
        return call_once(model, self.prompts[which], first_of_batch(self.latent), self.how, level, rows)

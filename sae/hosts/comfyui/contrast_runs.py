"""The two sides of a contrast, run in a MODEL: prompts that are sampled shortly, or pictures that are noised back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...dictionary.contrast import Side
from ...places.moment import OnStep
from .drawing import heard
from .sampling import Sampling, look, sample
from .steering import See, Watched

SEEDS = 2**64


def seed_of(first: int, number: int) -> int:
    """The seed so many after the first; they begin anew after the largest."""
    return (first + number) % SEEDS


@dataclass(frozen=True)
class PromptRuns:
    """The `Show` of prompts: run i of a side draws its prompt i from the first seed, and all of them from each seed."""

    watched: Watched
    prompts: Mapping[Side, Sequence[Any]]  # CONDITIONINGs
    latent: dict[str, Any]
    how: Sampling

    def __call__(self, side: Side, run: int, sees: Sequence[See], on_step: OnStep) -> None:
        turn, number = divmod(run, len(self.prompts[side]))
        how = replace(self.how, seed=seed_of(self.how.seed, turn))
        with self.watched.showing(sees) as model:
            sample(model, self.prompts[side][number], self.latent, how, heard(on_step))


@dataclass(frozen=True)
class PictureRuns:
    """The `Show` of pictures: run i of a side looks at its picture i, with noise from the first seed, and so on.

    A run is one call of the model at each of `levels`, parts of a sampling: 0 is pure noise, 1 the finished picture.
    """

    watched: Watched
    latents: Mapping[Side, Sequence[dict[str, Any]]]  # of one picture each
    prompt: Any
    seed: int
    levels: Sequence[float]

    def __call__(self, side: Side, run: int, sees: Sequence[See], on_step: OnStep) -> None:
        turn, number = divmod(run, len(self.latents[side]))
        latent, seed, count = self.latents[side][number], seed_of(self.seed, turn), len(self.levels)
        with self.watched.showing(sees) as model:
            for done, level in enumerate(self.levels):
                look(model, self.prompt, latent, seed, level, 1, heard(_part(on_step, done, count)))


def _part(on_step: OnStep, done: int, count: int) -> OnStep:
    """What to tell of the next of `count` parts."""
    return lambda share, preview: on_step((done + share) / count, preview)

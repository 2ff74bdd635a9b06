"""Directions of a MODEL without an SAE: what two sides differ in, as a dictionary with its features.

The sides are prompts that are sampled shortly, or pictures that are noised back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy.model_patcher import ModelPatcher as Model

from ...dictionary.contrast import SIDES, Side, Way
from ...dictionary.owner import TrainedOn
from ...embeddings.hidden_states import tap_at
from ...finding.contrasted import Contrasted, Told, contrasted, contrasted_tokens
from ...finding.two_sides import Runs, Show
from ...places.moment import OnProgress, OnStep
from ...places.named_choices import Choice, sites_of
from ...places.site import Site
from .drawing import heard
from .embeddings import TOKENS, text_tokens
from .model import depth_of, family_of, identity_of
from .sampling import Sampling, look, sample
from .steering import See, Watched


def sites_in(model: Model, location: str, stream: str, auto: Choice) -> list[Site]:
    return sites_of(family_of(model), depth_of(model), location, stream, auto)


def contrasted_in(
    model: Model, sites: Sequence[Site], show: Show, runs: Runs, told: Told, on_progress: OnProgress
) -> Contrasted:
    """What the two sides differ in at each site of a MODEL; see `contrasted`."""
    trained_on = TrainedOn(family_of(model).name, identity=identity_of(model))
    return contrasted(trained_on, sites, show, runs, told, on_progress)


def contrasted_texts(
    conditionings: Mapping[Side, Sequence[Any]], tap: str, told: Told, way: Way = "auto"
) -> Contrasted:
    """What the two sides differ in at a hidden state of the text's embedding, or with `all` in the whole of it.

    Raises ValueError for a tap that is not there, and as `contrasted_tokens`.
    """
    texts = {side: [text_tokens(one, tap) for one in conditionings[side]] for side in SIDES}
    place = _embedding_name(conditionings["positive"][0], tap)
    return contrasted_tokens(texts, place, told, "more pairs, or another tap", way)


def _embedding_name(conditioning: Any, tap: str) -> str:
    """Such as token_embeddings-layer_17, from whose name `auto` knows hidden state 18 again."""
    at = tap_at(conditioning[0][0].shape[-1], tap)
    return TOKENS if at is None else f"{TOKENS}-layer_{at.layer - 1}"


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

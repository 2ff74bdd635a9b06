"""Directions of a MODEL without an SAE: what two sides differ in, as a dictionary with its features.

The sides are prompts that are sampled shortly, or pictures that are noised back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy.model_patcher import ModelPatcher as Model

from ...dictionary.contrast import CLEAR, SIDES, Contrast, Side
from ...dictionary.origin import TrainedOn
from ...dictionary.sae_set import AnySae, SaeSet
from ...embeddings.hidden_states import tap_at
from ...finding.features import RankedFeature, feature_list
from ...finding.two_sides import Runs, Show, contrast_of_texts, find_contrasts, measure, measure_texts, rows_of
from ...places.moment import OnProgress, OnStep
from ...places.named_choices import Choice, sites_of
from ...places.site import Site
from ...steering.edits import FeatureList
from .drawing import heard
from .embeddings import TOKENS, text_tokens
from .model import depth_of, family_of, identity_of
from .sampling import Sampling, look, sample
from .steering import See, Watched

Told = Mapping[Side, tuple[str, ...]]  # what is shown on each side: prompts, or words for it
LONGEST_NAME = 24  # characters of a side in a dictionary's name


@dataclass(frozen=True)
class Contrasted:
    """A dictionary of contrast directions, each side's features in it, and what is told of them."""

    sae: AnySae
    rows: Mapping[Side, list[RankedFeature]]
    table: str

    def features(self, side: Side) -> FeatureList:
        return feature_list(self.rows[side], self.sae.owner)


def sites_in(model: Model, location: str, stream: str, auto: Choice) -> list[Site]:
    return sites_of(family_of(model), depth_of(model), location, stream, auto)


def contrasted(
    model: Model, sites: Sequence[Site], show: Show, runs: Runs, told: Told, on_progress: OnProgress
) -> Contrasted:
    """What the two sides differ in at each site; places where they do not are left out.

    Raises ValueError where they differ nowhere by more than chance gives.
    """
    found = dict(zip(sites, find_contrasts(show, sites, runs, on_progress), strict=True))
    prompts, name = (told["positive"], told["negative"]), _name(told)
    trained = TrainedOn(family_of(model).name, identity=identity_of(model))
    saes = {
        site: contrast.dictionary(site, f"{name}/{site.name}", trained, prompts)
        for site, contrast in found.items()
        if not contrast.is_nothing
    }
    if not saes:
        raise ValueError(_nothing(found))
    measure(show, sites, saes, runs, on_progress)
    sae: AnySae = SaeSet(saes.values(), name) if len(saes) > 1 else next(iter(saes.values()))
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, _table(name, found, runs))


def contrasted_texts(conditionings: Mapping[Side, Sequence[Any]], tap: str, told: Told) -> Contrasted:
    """What the two sides differ in at a hidden state of the text's embedding, or with `all` in the whole of it.

    Raises ValueError for a tap that is not there, for texts of two encoders, and where the sides do not differ by more
    than chance gives.
    """
    texts = {side: [text_tokens(one, tap) for one in conditionings[side]] for side in SIDES}
    widths = {tokens.shape[-1] for side in SIDES for tokens in texts[side]}
    if len(widths) > 1:
        raise ValueError(
            f"positive, negative: their embeddings are {' and '.join(map(str, sorted(widths)))} wide, of which there "
            "is no difference; encode all with one CLIP."
        )
    place, runs = _embedding_name(conditionings["positive"][0], tap), len(texts["positive"])
    found, name = contrast_of_texts(texts), _name(told)
    if found.is_nothing:
        raise ValueError(_nothing({place: found}, "more pairs, or another tap"))
    sae = found.dictionary(None, f"{name}/{place}", None, (told["positive"], told["negative"]))
    measure_texts(sae, texts)
    table = _table(name, {place: found}, Runs(runs, runs, True, runs), "two pairs of prompts")
    return Contrasted(sae, {side: rows_of(sae, side) for side in SIDES}, table)


def _embedding_name(conditioning: Any, tap: str) -> str:
    """Such as token_embeddings-layer_17, from whose name `auto` knows hidden state 18 again."""
    at = tap_at(conditioning[0][0].shape[-1], tap)
    return TOKENS if at is None else f"{TOKENS}-layer_{at.layer - 1}"


def _name(told: Told) -> str:
    """Such as `contrast blue_square - red_square`, without what a file's name may not have."""
    sides = ["_".join(re.findall(r"\w+", told[side][0] if told[side] else ""))[:LONGEST_NAME] for side in SIDES]
    return f"contrast {' - '.join(sides)}" if all(sides) else f"contrast {sides[0]}".strip()


def _table(name: str, found: Mapping[Any, Contrast], runs: Runs, more: str = "two seeds") -> str:
    width = max(len(str(site)) for site in found)
    each = str(runs.positive) if runs.positive == runs.negative else f"{runs.positive} and {runs.negative}"
    lines = [
        f"{name}: {each} runs of each side; nothing is what differs by less than {CLEAR:g} times what chance gives",
        f"{'place':<{width}} {'difference':>10} {'chance':>9} {'times':>7}",
    ]
    for site, contrast in found.items():
        floor, times = contrast.floor, contrast.times
        known = f"{'unknown':>9} {'':>7}" if floor is None else f"{floor:>9.3g} {times:>7.3g}"
        lines.append(f"{site!s:<{width}} {contrast.norm:>10.3g} {known}{'  nothing' if contrast.is_nothing else ''}")
    if any(contrast.floor is None for contrast in found.values()):
        lines.append(f"One run of a side tells nothing of chance: take {more} or more.")
    return "\n".join(lines)


def _nothing(found: Mapping[Any, Contrast], more: str = "more seeds, or another location") -> str:
    site, best = max(found.items(), key=lambda entry: entry[1].times or 0)
    where = str(site) if len(found) == 1 else f"any of {len(found)} places"
    if best.norm == 0:
        return f"positive, negative: there is no difference between them at {where}; use sides that differ."
    return (
        f"positive, negative: nothing tells them apart at {where}: they differ by {best.norm:.3g}, and chance alone "
        f"gives {best.floor:.3g}; use sides that differ more, {more}."
    )


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

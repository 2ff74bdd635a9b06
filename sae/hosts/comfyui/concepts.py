"""What ConceptSteer steers with: the features of two texts, of an SAE or of a contrast that needs none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...dictionary.contrast import SIDES, Side, Way
from ...dictionary.sae_set import AnySae, SaeSet
from ...files.quote import quoted
from ...files.recent import Newest
from ...finding.contrasted import Contrasted, Told
from ...finding.features import RankedFeature, feature_list
from ...finding.two_sides import Runs
from ...known.ranges import Setting
from ...places.named_choices import first_text, picture_attention
from ...steering.edits import FeatureList
from .contrasting import PromptRuns, contrasted_in, sites_in
from .drawing import encoded, progress_bar
from .finding_features import Finder, Found, Ranking, find
from .model import identity_of, setting_here
from .sampling import Sampling
from .steering import Watched

SEEDS = 2  # of a contrast: the least that tells how much chance alone gives


@dataclass(frozen=True)
class Texts:
    """What is wanted, instead of what (empty for nothing), and what encodes them."""

    wanted: str
    instead_of: str
    clip: Any

    @property
    def identity(self) -> tuple[str, str, str]:
        patcher = getattr(self.clip, "patcher", None)  # the demo's CLIP has no weights
        clip = type(self.clip).__name__ if patcher is None else identity_of(patcher)
        return self.wanted, self.instead_of, clip

    def titles(self) -> list[str]:
        return [f"Wanted: {self.wanted[:80]}", f"Instead of: {self.instead_of[:80]}"]

    def prompts(self) -> list[Any]:
        """Both as conditionings; ValueError where the text encoder makes the same of them."""
        wanted, other = (encoded(self.clip, text) for text in (self.wanted, self.instead_of))
        if len(wanted) == len(other) and all(torch.equal(a[0], b[0]) for a, b in zip(wanted, other, strict=True)):
            against = quoted(self.instead_of, 60) if self.instead_of else "no words"
            raise ValueError(
                f"wanted: the text encoder makes the same of {quoted(self.wanted, 60)} as of {against}, so there is "
                f"nothing to find; use other words{getattr(self.clip, 'known_words', '')}."
            )
        return [wanted, other]


class FoundFeatures(NamedTuple):
    """What one text has over the other, to be shown."""

    title: str
    ranked: Sequence[RankedFeature]
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Concept:
    """The features of what is wanted and of what gives way, in their dictionary; and what there is to show of them."""

    sae: AnySae
    features: FeatureList
    replaces: FeatureList
    found: Sequence[FoundFeatures]
    setting: Setting | None = None  # of which ranges may be offered
    lines: Sequence[str] = ()


def of_sae(
    finder: Finder, texts: Texts, ranking: Ranking, kept: Newest[Any], tell: Callable[[str], None]
) -> Concept:  # fmt: skip
    """What the first text has over the second, or over no words, and the other way round.

    Searches that were made are `kept`; `tell` hears what one costs.
    """
    sae, how = finder.sae, finder.how
    facts = (texts.identity, identity_of(finder.model), sae.owner.identity, finder.places, ranking, how.seed, how.steps)
    found: list[Found] = kept.get(
        key_of(*facts, finder.latent["samples"]), lambda: _search(finder, texts, ranking, tell)
    )
    lists = [feature_list(one.ranked, sae.owner) for one in found]
    setting = None if isinstance(sae, SaeSet) else setting_here(finder.model, finder.members[0].site)
    shown = [FoundFeatures(title, one.ranked, one.lines) for one, title in zip(found, texts.titles(), strict=False)]
    replaces = lists[1] if len(lists) > 1 else FeatureList(owner=sae.owner)
    return Concept(sae, lists[0], replaces, shown, setting)


def _search(finder: Finder, texts: Texts, ranking: Ranking, tell: Callable[[str], None]) -> list[Found]:
    searches: list[tuple[int, int | None]] = [(0, 1), (1, 0)] if texts.instead_of else [(0, 1)]
    return find(finder, texts.prompts(), searches, ranking, progress_bar(1), tell)[1]


def of_contrast(
    model: Model, texts: Texts, latent: dict[str, Any], how: Sampling, location: str, stream: str, in_picture: bool,
    kept: Newest[Any], way: Way = "auto",
) -> Concept:  # fmt: skip
    """The directions between both texts, or between the first and no words, where no SAE is at hand.

    'auto' is the text as it enters the first block; what is to be steered `in_picture`, as a mask asks for, needs the
    attention outputs of all blocks instead.
    """
    sites = sites_in(model, location, stream, picture_attention if in_picture else first_text)
    told: Told = {"positive": (texts.wanted,), "negative": (texts.instead_of,)}

    def search() -> Contrasted:
        wanted, other = texts.prompts()
        prompts: dict[Side, list[Any]] = {"positive": [wanted], "negative": [other]}
        show = PromptRuns(Watched(model, [(site, None) for site in sites]), prompts, latent, how)
        return contrasted_in(model, sites, show, Runs(SEEDS, SEEDS, True, 1, way), told, progress_bar(how.steps))

    facts = ("no SAE", way, texts.identity, identity_of(model), [str(site) for site in sites], how.seed, how.steps)
    found: Contrasted = kept.get(key_of(*facts, latent["samples"]), search)
    titles, lines = texts.titles(), [found.table]
    shown = [FoundFeatures(title, found.rows[side]) for side, title in zip(SIDES, titles, strict=True)]
    if not texts.instead_of:  # what a picture without words has shows in no other prompt: there is nothing to take out
        nothing = FeatureList(owner=found.sae.owner)
        return Concept(found.sae, found.features("positive"), nothing, shown[:1], lines=lines)
    return Concept(found.sae, found.features("positive"), found.features("negative"), shown, lines=lines)


def key_of(*facts: Any) -> str:
    """64 hexadecimal digits of everything that decides a search; a tensor counts by its numbers."""
    return hashlib.sha256(json.dumps([_plain(fact) for fact in facts]).encode()).hexdigest()


def _plain(fact: Any) -> str:
    if isinstance(fact, Tensor):
        numbers = fact.detach().float().cpu().contiguous().numpy()
        return f"{tuple(fact.shape)} {hashlib.sha256(numbers.tobytes()).hexdigest()}"
    return repr(fact)

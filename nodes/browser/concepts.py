"""What ConceptSteer steers with: the features of two texts, of an SAE or of a contrast that needs none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Model

from ...sae.dictionary.contrast import Side
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.files.quote import quoted
from ...sae.finding.features import feature_list
from ...sae.finding.two_sides import Runs
from ...sae.hosts.comfyui.contrast_runs import PromptRuns
from ...sae.hosts.comfyui.drawing import encoded, progress_bar
from ...sae.hosts.comfyui.finding_features import Finder, Found, Ranking, find
from ...sae.hosts.comfyui.identity import identity_of
from ...sae.hosts.comfyui.sampling import Sampling
from ...sae.hosts.comfyui.steering import Watched
from ...sae.places.named_choices import first_text, picture_attention
from ...sae.steering.edits import FeatureList
from .contrasting import Contrasted, Told, contrasted, sites_in
from .feature_ranges import setting_here
from .feature_results import table_of
from .kept_results import FoundConcepts, key_of
from .messages import show_progress_text

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Concept:
    """The features of what is wanted and of what gives way, in their dictionary; and the tables of them."""

    sae: AnySae
    features: FeatureList
    replaces: FeatureList
    tables: Sequence[tuple[str, dict[str, Any]]]  # as text, and as the browser draws it
    lines: Sequence[str] = ()


def of_sae(finder: Finder, texts: Texts, ranking: Ranking, kept: FoundConcepts, node_id: str | None) -> Concept:
    """What the first text has over the second, or over no words, and the other way round."""
    sae, how = finder.sae, finder.how
    facts = (texts.identity, identity_of(finder.model), sae.owner.identity, finder.places, ranking, how.seed, how.steps)
    found = kept.get(key_of(*facts, finder.latent["samples"]), partial(_search, finder, texts, ranking, node_id))
    lists = [feature_list(one.ranked, sae.owner) for one in found]
    setting = None if isinstance(sae, SaeSet) else setting_here(finder.model, finder.members[0].site)
    tables = [
        table_of(sae, one.ranked, title, one.lines, setting=setting)
        for one, title in zip(found, texts.titles(), strict=False)
    ]
    return Concept(sae, lists[0], lists[1] if len(lists) > 1 else FeatureList(owner=sae.owner), tables)


def _search(finder: Finder, texts: Texts, ranking: Ranking, node_id: str | None) -> list[Found]:
    def tell(line: str) -> None:
        log.info("ConceptSteer: %s", line)
        show_progress_text(node_id, line)

    searches: list[tuple[int, int | None]] = [(0, 1), (1, 0)] if texts.instead_of else [(0, 1)]
    return find(finder, texts.prompts(), searches, ranking, progress_bar(1), tell)[1]


def of_contrast(
    model: Model, texts: Texts, latent: dict[str, Any], how: Sampling, location: str, stream: str, in_picture: bool,
    kept: FoundConcepts,
) -> Concept:  # fmt: skip
    """The directions between both texts, or between the first and no words, where no SAE is at hand.

    'auto' is the text's stream behind the first block; what is to be steered `in_picture`, as a mask asks for, needs
    the attention outputs of all blocks instead.
    """
    sites = sites_in(model, location, stream, picture_attention if in_picture else first_text)
    told: Told = {"positive": (texts.wanted,), "negative": (texts.instead_of,)}

    def search() -> Contrasted:
        wanted, other = texts.prompts()
        prompts: dict[Side, list[Any]] = {"positive": [wanted], "negative": [other]}
        show = PromptRuns(Watched(model, [(site, None) for site in sites]), prompts, latent, how)
        return contrasted(model, sites, show, Runs(SEEDS, SEEDS, True, 1), told, progress_bar(how.steps))

    facts = ("no SAE", texts.identity, identity_of(model), [str(site) for site in sites], how.seed, how.steps)
    found = kept.get(key_of(*facts, latent["samples"]), search)
    titles, lines = texts.titles(), [found.table]
    tables = found.tables({"positive": titles[0], "negative": titles[1]})
    if not texts.instead_of:  # what a picture without words has shows in no other prompt: there is nothing to take out
        return Concept(found.sae, found.features("positive"), FeatureList(owner=found.sae.owner), tables[:1], lines)
    return Concept(found.sae, found.features("positive"), found.features("negative"), tables, lines)

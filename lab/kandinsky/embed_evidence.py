"""Measures steering of the small Kandinsky's embeddings, with the same prompts and the same judge as FLUX's blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae.demo.shapes import COLOURS, Prompt
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.embeddings.editing import steer_tokens
from sae.finding.features import RankedFeature, feature_list
from sae.steering.delta import Steering
from sae.steering.record import SteeringRecord

from ..judge.reader import Readings, measure_pictures
from ..judge.score import Score
from .chain import Chain
from .settings import OTHER_CONTEXTS, SETTINGS, EmbedCase, EmbedSetting

RANDOM_SEED = 7


@dataclass
class EmbedEvidence:
    """Everything the report tells of this level."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    ceiling: Score = field(default_factory=Score)
    unsteered: Score = field(default_factory=Score)
    steered: dict[int, Score] = field(default_factory=lambda: defaultdict(Score))
    random: dict[int, Score] = field(default_factory=lambda: defaultdict(Score))

    @property
    def drawn(self) -> dict[str, float]:
        return {slot: sum(values) / len(values) for slot, values in self.right.items()}


class EmbedMeasurement:
    """Features are found with `finding` in each colour, from `seeds`; and once more with OTHER_CONTEXTS beside it."""

    def __init__(
        self,
        finding: Prompt,
        seeds: Sequence[int],
        sae: SparseAutoencoder | None = None,
        settings: Sequence[EmbedSetting] = SETTINGS,
    ) -> None:
        """Of the shipped SAE, or of `sae`."""
        self.chain, self.settings = Chain(), settings
        self.sae = sae or self.chain.sae
        self.examples: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}  # with other contexts or not: by colour
        for colour in COLOURS:
            prompts = [prompt.with_colour(colour) for prompt in (finding, *OTHER_CONTEXTS)]
            rows = torch.cat([self.chain.embed([prompt] * len(seeds), seeds)[0] for prompt in prompts])
            self.examples[False][colour], self.examples[True][colour] = rows[: len(seeds)], rows
        self.found = EmbedEvidence()

    def add(self, source: str, target: str, number: int, prompts: Sequence[Prompt], seeds: Sequence[int]) -> None:
        """Measures one change of colour on prompts that say the source's."""
        embeds, blank = self.chain.embed(prompts, seeds)
        before = self._read(embeds, blank, seeds)
        for prompt, seen in zip(prompts, before.prompts, strict=True):
            for slot in ("colour", "shape", "place", "size", "background"):
                self.found.right[slot].append(getattr(prompt, slot) == getattr(seen, slot))
        self.found.unsteered.add(before, before, target)
        worded, _ = self.chain.embed([prompt.with_colour(target) for prompt in prompts], seeds)
        self.found.ceiling.add(before, self._read(worded, blank, seeds), target, _ratio(embeds, worded))
        cases = {wide: EmbedCase.of(self.sae, rows, source, target) for wide, rows in self.examples.items()}
        for index, setting in enumerate(self.settings):
            steered = setting.apply(cases[setting.contexts], embeds)
            ratio = _ratio(embeds, steered)
            self.found.steered[index].add(before, self._read(steered, blank, seeds), target, ratio)
            if setting.random:
                random = random_twin(embeds, steered, RANDOM_SEED + number)
                self.found.random[index].add(before, self._read(random, blank, seeds), target, ratio)

    def _read(self, embeds: Tensor, blank: Tensor, seeds: Sequence[int]) -> Readings:
        return measure_pictures(self.chain.draw(embeds, blank, seeds))


def random_twin(embeds: Tensor, steered: Tensor, seed: int) -> Tensor:
    """Embeddings moved as far as the steered ones, along one random direction."""
    direction = torch.randn(embeds.shape[-1], generator=torch.Generator().manual_seed(seed))
    return embeds + (steered - embeds).norm(dim=-1, keepdim=True) * direction / direction.norm()


def _ratio(embeds: Tensor, steered: Tensor) -> float:
    return float(((steered - embeds).norm(dim=-1) / embeds.norm(dim=-1)).mean())


@dataclass(frozen=True)
class EmbedDemo:
    """The chain, what is steered to and from, and the embeddings of the prompts to be changed."""

    chain: Chain
    found: Sequence[RankedFeature]
    replaced: Sequence[RankedFeature]
    embeds: Tensor  # (prompts, 64)
    blank: Tensor  # (1, 64)
    seeds: Sequence[int]

    @classmethod
    def of(
        cls, chain: Chain, found: Sequence[RankedFeature], replaced: Sequence[RankedFeature], prompts: Sequence[Prompt]
    ) -> EmbedDemo:
        seeds = range(100, 100 + len(prompts))
        return cls(chain, found, replaced, *chain.embed(prompts, seeds), seeds)

    def draw(self, strength: float, random_direction: int | None = None) -> Tensor:
        """Pictures (prompts, 3, 64, 64); with `random_direction` the control of equal size."""
        steering = Steering(
            self.chain.sae, feature_list(self.found), "swap", strength, replaces=feature_list(self.replaced)
        )
        steered = steer_tokens(self.embeds.unsqueeze(1), steering, SteeringRecord()).squeeze(1)
        if random_direction is not None:
            steered = random_twin(self.embeds, steered, random_direction)
        return self.chain.draw(steered, self.blank, self.seeds)

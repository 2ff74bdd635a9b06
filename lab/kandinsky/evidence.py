"""Measures steering of the small Kandinsky's embeddings, with the same prompts and the same judge as FLUX's blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae.demo.shapes import COLOURS, Prompt

from ..judge.reader import Readings, measure_pictures
from ..judge.score import Score
from .chain import Chain
from .settings import SETTINGS, EmbedCase

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
    """Features are found with `finding` in each colour, from `seeds`."""

    def __init__(self, finding: Prompt, seeds: Sequence[int]) -> None:
        self.chain = Chain()
        prompts = {colour: finding.with_colour(colour) for colour in COLOURS}
        self.tallies = {colour: self.chain.tally(prompt, seeds) for colour, prompt in prompts.items()}
        self.examples = {c: self.chain.embed([p] * len(seeds), seeds)[0] for c, p in prompts.items()}
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
        case = EmbedCase(self.chain.sae, self.tallies, self.examples, source, target)
        for index, setting in enumerate(SETTINGS):
            steered = setting.apply(case, embeds)
            ratio = _ratio(embeds, steered)
            self.found.steered[index].add(before, self._read(steered, blank, seeds), target, ratio)
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

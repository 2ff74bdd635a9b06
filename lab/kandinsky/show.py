"""The second half of `python -m lab.demo`: the same change of colour, before the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sae.demo.shapes import Prompt
from sae.embeddings.editing import steer_tokens
from sae.finding.features import RankedFeature, feature_list
from sae.steering.delta import Steering
from sae.steering.record import SteeringRecord

from .chain import Chain
from .evidence import random_twin


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

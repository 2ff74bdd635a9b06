"""The small Kandinsky as a user runs it: text to embedding to picture, and which features fire on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sae.demo.shapes import Prompt
from sae.demo.shipped_weights import EMBED_SAE, KANDINSKY_DECODER, KANDINSKY_PRIOR, load_sae
from sae.finding.features import FeatureTally, tally_tokens
from sae.hosts.kandinsky import KandinskyHalf, draw, run_prior

from .models import PICTURE_SIDE

PRIOR_STEPS, PRIOR_GUIDANCE = 10, 1.0
STEPS, GUIDANCE = 16, 2.0


class Chain:
    """Prior, decoder and the SAE of the embeddings between them."""

    def __init__(self) -> None:
        self.prior, self.decoder = KandinskyHalf(KANDINSKY_PRIOR, "prior"), KandinskyHalf(KANDINSKY_DECODER, "decoder")
        self.sae = load_sae(EMBED_SAE)

    def embed(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings (prompts, 64) and the blank one (1, 64)."""
        texts = [str(prompt) for prompt in prompts]
        result = run_prior(self.prior, texts, "", PRIOR_STEPS, PRIOR_GUIDANCE, seeds, _unheard)
        return result.embeds, result.negative[:1]

    def draw(self, embeds: Tensor, blank: Tensor, seeds: Sequence[int]) -> Tensor:
        """Pictures (batch, 3, 64, 64) of embeddings (batch, 64), each with its own seed."""
        size = (PICTURE_SIDE, PICTURE_SIDE)
        return draw(self.decoder, embeds, blank, size, STEPS, GUIDANCE, seeds, _unheard).movedim(-1, 1)

    def tally(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> FeatureTally:
        """What fires for the embeddings that the prior makes of prompts, one of each prompt for each seed."""
        embeds, _ = self.embed([prompt for prompt in prompts for _ in seeds], [*seeds] * len(prompts))
        return tally_tokens(self.sae, embeds.unsqueeze(1))


def _unheard(*step: Any) -> None:
    """Nobody watches the steps."""

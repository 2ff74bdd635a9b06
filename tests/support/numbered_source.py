"""A source of known tokens, fast and without a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sae.places.site import Site, parse_location
from sae.training.source import Chunk, generator_of

TEXT, IMAGE = "transformer_blocks.0-text", "transformer_blocks.1-image"


class NumberedSource:
    """Calls of 64 tokens at two sites of widths 16 and 24, sums of three of 32 directions; `loud` are outliers."""

    def __init__(self, seed: int = 0, loud: int = 0) -> None:
        self.sites: dict[str, Site | None] = {
            TEXT: parse_location("transformer_blocks.0", "text"),
            IMAGE: parse_location("transformer_blocks.1", "image"),
        }
        self.seed, self.loud = seed, loud
        self.about: dict[str, str | int | float] = {"seed": seed}
        self.asked: list[int] = []
        random = torch.Generator().manual_seed(99)
        self.directions = {name: torch.randn(32, width, generator=random) for name, width in ((TEXT, 16), (IMAGE, 24))}

    def training(self, number: int) -> Mapping[str, Chunk]:
        self.asked.append(number)
        return self._call(number, 0)

    def held_out(self, number: int) -> Mapping[str, Chunk]:
        return self._call(number, 1)

    def _call(self, number: int, part: int) -> dict[str, Chunk]:
        return {name: self._chunk(name, number, part) for name in self.sites}

    def _chunk(self, name: str, number: int, part: int) -> Chunk:
        random = generator_of(self.seed, part, number, len(name))
        tokens = self._tokens(name, random)
        tokens[: self.loud] *= 1000
        return Chunk(tokens, torch.rand(64, generator=random), torch.full((64,), number))

    def _tokens(self, name: str, random: torch.Generator) -> Tensor:
        active = torch.rand(64, 32, generator=random).topk(3, dim=1).indices
        codes = torch.zeros(64, 32).scatter_(1, active, 0.5 + torch.rand(64, 3, generator=random))
        return codes @ self.directions[name] + 1

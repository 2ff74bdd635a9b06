"""A limited number of tokens of a costly source, kept in memory and given again and again."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .source import TOKENS, Chunk, Source


class RememberedSource:
    """The first calls of another source, until every site has `tokens`; then these from the beginning, without end."""

    def __init__(self, source: Source, tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
        if tokens < 1:
            raise ValueError(f"tokens: {tokens} cannot be trained on; give 1 or more.")
        self.source, self.tokens, self.dtype = source, tokens, dtype
        self.sites = source.sites
        self._kept: list[dict[str, Chunk]] = []
        self._counts = dict.fromkeys(source.sites, 0)

    @property
    def about(self) -> dict[str, str | int | float]:
        return {**self.source.about, TOKENS: self.tokens}

    @property
    def full(self) -> bool:
        return all(count >= self.tokens for count in self._counts.values())

    def training(self, number: int) -> Mapping[str, Chunk]:
        while not self.full and number >= len(self._kept):
            self._remember(self.source.training(len(self._kept)))
        return self._kept[number % len(self._kept)]

    def held_out(self, number: int) -> Mapping[str, Chunk]:
        return self.source.held_out(number)

    def _remember(self, chunks: Mapping[str, Chunk]) -> None:
        """Of each site no more than it needs, and room for no more."""
        kept = {}
        for name, chunk in chunks.items():
            missing = self.tokens - self._counts[name]
            first = Chunk(*(part[:missing].clone() for part in chunk))
            self._counts[name] += len(first.tokens)
            kept[name] = first._replace(tokens=first.tokens.to(self.dtype))
        self._kept.append(kept)

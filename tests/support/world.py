"""Tokens of which it is known what they are made of, to train SAEs on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae.training.topk import TopKModel

WIDTH, TRUE_FEATURES, ACTIVE, BATCH = 32, 64, 3, 512


class World:
    """Tokens that are sums of three of 64 directions with strengths 0.5 to 1.5, an offset and a little noise."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1234)
        self.directions = normalize(torch.randn(TRUE_FEATURES, WIDTH, generator=generator), dim=1)
        self.offset = 2 * torch.randn(WIDTH, generator=generator)

    def batches(self, seed: int, count: int = 10_000, size: int = BATCH) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            active = torch.rand(size, TRUE_FEATURES, generator=generator).topk(ACTIVE, dim=1).indices
            strength = 0.5 + torch.rand(size, ACTIVE, generator=generator)
            codes = torch.zeros(size, TRUE_FEATURES).scatter_(1, active, strength)
            yield codes @ self.directions + self.offset + 0.01 * torch.randn(size, WIDTH, generator=generator)

    def best_cosines(self, model: TopKModel) -> Tensor:
        """(64,): how close the nearest decoder direction comes to each true one."""
        return (self.directions @ model.decoder.detach().T).amax(dim=1)


WORLD = World()

"""Measures a trained SAE on tokens it has not seen, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..activations import SparseCodes
from ..features import FeatureTally
from ..statistics import FeatureStatistics
from .topk import TopKModel


class Evaluation(NamedTuple):
    """How well an SAE does on `tokens` tokens."""

    explained_variance: float  # 1 - squared error / squared distance from the mean token
    l0: float  # mean number of active features of a token
    dead_share: float  # share of features that fired on no token
    cosine: float  # mean cosine between a token and its reconstruction, both taken from the SAE's bias
    tokens: int


@torch.no_grad()
def evaluate(model: TopKModel, chunks: Iterable[Tensor]) -> tuple[Evaluation, FeatureStatistics]:
    """Runs chunks (n, d_in) of tokens through the SAE. Raises ValueError when there are none."""
    tally = _Tally(model)
    for chunk in chunks:
        tally.add(chunk.to(model.bias.device, torch.float32))
    if tally.tokens == 0:
        raise ValueError("activations: there are no tokens to measure the SAE on; give one or more.")
    return tally.evaluation(), tally.features.statistics()


class _Tally:
    """Running sums: float64 where many numbers add up."""

    def __init__(self, model: TopKModel) -> None:
        device, wide = model.bias.device, torch.float64
        self.model = model
        self.tokens = 0
        self.token_sum = torch.zeros(model.config.d_in, dtype=wide, device=device)
        self.square_sum = torch.zeros((), dtype=wide, device=device)
        self.error_sum = torch.zeros((), dtype=wide, device=device)
        self.cosine_sum = torch.zeros((), dtype=wide, device=device)
        self.features = FeatureTally(model.config.d_sae)

    def add(self, x: Tensor) -> None:
        values, indices = self.model.encode(x)
        rebuilt = self.model.decode(values, indices)
        centre = self.model.centre
        centred = (x - centre).double()  # sums around it lose less precision
        self.tokens += len(x)
        self.token_sum += centred.sum(dim=0)
        self.square_sum += centred.square().sum()
        self.error_sum += (x - rebuilt).double().square().sum()
        self.cosine_sum += functional.cosine_similarity(x - centre, rebuilt - centre, dim=1).double().sum()
        self.features.add(SparseCodes(values, indices))

    def evaluation(self) -> Evaluation:
        total = self.square_sum - self.token_sum.square().sum() / self.tokens
        return Evaluation(
            explained_variance=1 - float(self.error_sum / total.clamp_min(1e-30)),
            l0=float(self.features.share.sum()),
            dead_share=float((self.features.count == 0).float().mean()),
            cosine=float(self.cosine_sum) / self.tokens,
            tokens=self.tokens,
        )

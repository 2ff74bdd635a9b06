"""Measures a trained SAE on tokens it has not seen, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..dictionary.activations import SparseCodes
from ..dictionary.statistics import FeatureStatistics
from ..finding.fit import Fit, FitTally
from .topk import TopKModel


@torch.no_grad()
def evaluate(model: TopKModel, chunks: Iterable[Tensor]) -> tuple[Fit, FeatureStatistics]:
    """Runs chunks (n, d_in) of tokens through the SAE. Raises ValueError when there are none."""
    tally = FitTally(model.centre, model.config.d_sae)
    for chunk in chunks:
        x = chunk.to(model.bias.device, torch.float32)
        values, indices = model.encode(x)
        tally.add(x, SparseCodes(values, indices), model.decode(values, indices))
    if tally.tokens == 0:
        raise ValueError("activations: there are no tokens to measure the SAE on; give one or more.")
    return tally.fit(), tally.features.statistics()

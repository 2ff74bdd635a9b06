"""Measures an SAE on tokens it has not seen, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.statistics import FeatureStatistics
from ..finding.fit import Fit, FitTally
from .topk import TopKModel


@torch.no_grad()
def evaluate(model: TopKModel, chunks: Iterable[Tensor]) -> tuple[Fit, FeatureStatistics]:
    """Runs chunks (n, d_in) of tokens through the SAE. Raises ValueError when there are none."""
    tally = FitTally(model.centre.detach(), model.config.d_sae)
    for chunk in chunks:
        x = chunk.to(model.bias.device, torch.float32)
        codes = model.encode(x)
        tally.add(x, codes, model.decode(codes))
    return _measured(tally)


@torch.no_grad()
def evaluate_sae(sae: SparseAutoencoder, chunks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Fit, FeatureStatistics]:
    """The same of any SAE: chunks of tokens (n, d_in) with noise levels (n,). Raises ValueError without tokens."""
    bias = sae.weights.optional_vector("output_bias")
    tally = FitTally(torch.zeros(sae.d_in) if bias is None else bias, sae.d_sae)
    for tokens, sigma in chunks:
        x = tokens.float()
        codes = sae.encode_sparse(x, sigma)
        tally.add(x, codes, sae.decode_sparse(codes, like=x))
    return _measured(tally)


def _measured(tally: FitTally) -> tuple[Fit, FeatureStatistics]:
    if tally.tokens == 0:
        raise ValueError("activations: there are no tokens to measure the SAE on; give one or more.")
    return tally.fit(), tally.features.statistics()

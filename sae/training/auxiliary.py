"""The auxiliary loss: how well the strongest dead features of each token predict what the others leave over.

The squared error (summed) of predicting `error` (n, d_in) with `count` dead features a token. Two ways to the same
number: there may be hundreds of dead features a token, but they are few of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .sparse import choose_per_token, kept_codes, largest, sum_rows

if TYPE_CHECKING:
    from .topk import TopKModel


def by_rows(model: TopKModel, x: Tensor, before: Tensor, error: Tensor, dead: Tensor, count: int) -> Tensor:
    """Sums of rows, for scaled tokens x (n, d_in) with their codes `before` (n, d_sae)."""
    chosen = choose_per_token(before.masked_fill(~dead, -torch.inf), count)
    values = kept_codes(x, model.bias, model.encoder, model.encoder_bias, before, chosen).relu()
    return (error - sum_rows(model.decoder, chosen.features, values, chosen.starts)).square().sum()


def by_products(model: TopKModel, x: Tensor, error: Tensor, dead: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Products in `dtype` of the dead features' matrices: on a GPU, where rows cost more than products."""
    features = dead.nonzero().squeeze(1)
    encoder, bias, decoder = (
        tensor.index_select(0, features).to(dtype) for tensor in (model.encoder, model.encoder_bias, model.decoder)
    )
    codes = functional.linear((x - model.bias).to(dtype), encoder, bias)  # (n, dead)
    if count < len(features):
        kept = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, largest(codes.detach(), count), True)
        codes = codes.where(kept, 0.0)
    return (error - (codes.relu() @ decoder).float()).square().sum()

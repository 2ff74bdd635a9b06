"""How far a product of rows in bfloat16 can lie below the one in float32.

With ĉ and ŵ a token and an encoder row in bfloat16, and u = 2⁻²¹ above what d sums in float32 lose, twice over:

    |c · w - sum of ĉ_i ŵ_i| ≤ ‖c - ĉ‖ ‖w‖ + ‖ĉ‖ ‖w - ŵ‖ + (d + 8) u ‖c‖ ‖w‖

So the product and this bound together lie above whatever float32 would find, in any order of the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..activations import Architecture
from ..weights import Part

SUMMING = 2.0**-21  # of sums in float32, on tensor cores too, which cut off what they shift out
FLOOR = 2.0**-50  # a number whose square float32 may not hold counts as this
SLACK = 1.01  # for the arithmetic of the bound itself
ALIGNED = 256  # rows and columns of products, in whole numbers of it where it can be: else GPUs take slow kernels


class Rounded(NamedTuple):
    """Rows (n, d) in bfloat16; upper bounds of how long they were, and of how far rounding moved them, (n,) each."""

    rows: Tensor
    length: Tensor
    moved: Tensor


def rounded(rows: Tensor, lengths: Tensor | None = None) -> Rounded:
    """`lengths` (n,) are those of the rows, where they are known."""
    low = rows.bfloat16()
    moved = torch.zeros(len(rows), device=rows.device) if rows.dtype == low.dtype else _length(rows - low.to(rows))
    return Rounded(low, _length(rows) if lengths is None else _above(lengths, rows), moved)


def rounded_rows(encoder: Part, features: slice | Tensor, device: torch.device) -> Rounded:
    """Of the encoder's rows, as they are stored or in float32."""
    stored = encoder.weight[features]
    rows = stored if stored.dtype == torch.bfloat16 else encoder.feature_rows(features, device)
    return rounded(rows, encoder.lengths()[features].to(device))


def highest(tokens: Rounded, weight: Rounded) -> Tensor:
    """What no float32 product of the rows before they were rounded lies above, (tokens, features)."""
    return product(tokens.rows, weight.rows).addmm_(of_tokens(tokens), of_weight(weight))


def of_tokens(tokens: Rounded) -> Tensor:
    """(tokens, 2): what the bound is with `of_weight`, as a product of the two."""
    sums = (tokens.rows.shape[1] + 8) * SUMMING
    return torch.stack([tokens.moved + sums * tokens.length, tokens.length + tokens.moved], dim=1) * SLACK


def of_weight(weight: Rounded) -> Tensor:
    """(2, features)"""
    return torch.stack([weight.length, weight.moved])


def product(tokens: Tensor, weight: Tensor) -> Tensor:
    """Of bfloat16, summed and returned in float32."""
    if tokens.is_cuda:
        return torch.mm(tokens, weight.T, out_dtype=torch.float32)
    return tokens.float() @ weight.float().T


def ordered(pre: Tensor, vectors: dict[str, Tensor], features: slice | Tensor, architecture: Architecture) -> Tensor:
    """Codes without the ReLU, written over `pre`. Each step keeps the order of two numbers of one feature.

    So does the ReLU, of all features; it comes when few numbers are left.
    """
    if "encoder_bias" in vectors:
        pre += vectors["encoder_bias"][features]
    if architecture.decoder_norm != "none":
        pre *= vectors["decoder_norm"][features]
    return pre


def _length(rows: Tensor) -> Tensor:
    return _above(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32), rows)


def _above(lengths: Tensor, rows: Tensor) -> Tensor:
    """What no length of the rows lies above, by what float32 found."""
    return lengths * SLACK + FLOOR * rows.shape[1] ** 0.5

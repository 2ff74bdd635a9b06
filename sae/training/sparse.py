"""Codes that are mostly zero, in training: which are kept, sums of rows, and gradients for the kept ones alone.

A dense encoder would keep a gradient (batch, d_sae) and multiply by it twice, though all but k of its entries are zero.
Here, as in EleutherAI/sparsify, only the kept codes have a gradient: a row of the encoder gets the sum of the tokens
that chose it, weighted. Equal to the dense gradient but for the order in which numbers are added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 16  # features of a group, of which only the strongest groups are searched


class Chosen(NamedTuple):
    """Which codes are kept: a list sorted by token, as long as there are kept codes in the batch."""

    tokens: Tensor  # (m,) int64, ascending
    features: Tensor  # (m,) int64
    starts: Tensor  # (n,) int64: where the part of each token begins

    def only(self, kept: Tensor) -> Chosen:
        """Those that a mask (m,) marks."""
        return _listed(self.tokens[kept], self.features[kept], len(self.starts))


def choose_per_token(before: Tensor, k: int) -> Chosen:
    """The k largest of each token, of (n, d_sae)."""
    indices = largest(before, k)
    starts = torch.arange(0, indices.numel(), k, device=before.device)
    tokens = torch.arange(len(before), device=before.device).repeat_interleave(k)
    return Chosen(tokens, indices.flatten(), starts)


def choose_over_batch(before: Tensor, k: int) -> Chosen:
    """The n · k largest of a whole batch (n, d_sae)."""
    tokens, features = before.shape
    flat = largest(before.reshape(1, -1), tokens * k)[0].sort().values
    return _listed(flat // features, flat % features, tokens)


def _listed(tokens: Tensor, features: Tensor, count: int) -> Chosen:
    return Chosen(tokens, features, _starts(tokens, count))


def _starts(ascending: Tensor, count: int) -> Tensor:
    """Where each number of 0..count-1 begins in a sorted list."""
    return torch.searchsorted(ascending, torch.arange(count, device=ascending.device))


def largest(values: Tensor, k: int) -> Tensor:
    """Indices (n, k) of the k largest in each row of (n, m), unsorted.

    The k largest lie in the k groups with the largest maxima, so only those are searched: several times as fast as
    searching all.
    """
    rows, columns = values.shape
    groups = columns // GROUP
    if columns % GROUP or groups <= k:
        return values.topk(k, dim=1, sorted=False).indices
    grouped = values.view(rows, GROUP, groups)  # a group's members lie `groups` apart: its maximum is fast
    strongest = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, strongest.unsqueeze(1).expand(-1, GROUP, -1)).flatten(1)
    found = candidates.topk(k, dim=1, sorted=False).indices
    return found // k * groups + strongest.gather(1, found % k)


def sum_rows(table: Tensor, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """(len(starts), d): for each part of the list, the weighted sum of its rows of `table` (F, d)."""
    if table.device.type == "mps":  # embedding_bag is missing there in many releases of torch
        lengths = torch.diff(starts, append=starts.new_tensor([len(rows)]))
        bags = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
        return table.new_zeros(len(starts), table.shape[1]).index_add(0, bags, table[rows] * weights[:, None])
    return functional.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)


def kept_codes(
    x: Tensor, bias: Tensor, encoder: Tensor, encoder_bias: Tensor, before: Tensor, chosen: Chosen
) -> Tensor:
    """(m,): the chosen of the codes `before` = (x - bias) · encoder + encoder_bias, with their gradients.

    `before` (n, d_sae) was computed without gradients. Bias (d_in), encoder (d_sae, d_in) and encoder_bias (d_sae) get
    theirs; the tokens x (n, d_in) are data and get none.
    """
    codes: Tensor = _KeptCodes.apply(x, bias, encoder, encoder_bias, before, chosen.tokens, chosen.features)
    return codes


class _KeptCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        x, bias, encoder, _, before, tokens, features = given
        ctx.save_for_backward(x, bias, encoder, tokens, features)
        return before[tokens, features].float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, encoder, tokens, features = ctx.saved_tensors
        order = features.argsort(stable=True)
        weights, users = gradients[0][order], tokens[order]
        starts = _starts(features[order], len(encoder))
        of_encoder = sum_rows(x - bias, users, weights, starts)
        ones = weights.new_ones(len(x), 1)
        of_encoder_bias = sum_rows(ones, users, weights, starts).squeeze(1)
        of_bias = -(of_encoder_bias @ encoder)
        return None, of_bias, of_encoder, of_encoder_bias, None, None, None

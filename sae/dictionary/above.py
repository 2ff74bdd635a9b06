"""Candidates for a token's largest codes by a line that most features lie below: one look at each, and no sorting.

Of a sample of the features the r-th highest is the line, r so large that of all features more than k lie above it, but
for a share of tokens that is too small to meet. Those that lie above it are listed and computed in float32.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from .activations import Architecture, SparseCodes
from .bound import ALIGNED, Rounded, highest, of_tokens, of_weight, ordered, product, rounded, rounded_rows
from .weights import Part, aligned, feature_chunks

EVERY = 8  # features of which one is in the sample, at least
DEVIATIONS = 5  # of how many of a few features are in the sample by chance
SPARE = 8  # features that may lie between the k and the line, and half as many again as k
MOST_TOKENS = 8_192  # that come in one product


def listed_codes(
    tokens: Tensor, encoder: Part, architecture: Architecture, vectors: dict[str, Tensor], scratch: int
) -> tuple[SparseCodes, Tensor]:
    """The best k of each token's list, (tokens, k), and (tokens,) whether no other feature can be among them.

    `tokens` (tokens, d) float32 are as the encoder reads them; `vectors` are the encoder's.
    """
    from . import kernels

    (d_sae, d_in), k = encoder.weight.shape, architecture.k or 0
    low = rounded(tokens)
    line, room = _line(low, encoder, architecture, vectors, scratch)
    lists, spread = kernels.Lists(len(tokens), room, tokens.device), of_tokens(low)
    for chunk in feature_chunks(d_sae, _columns(len(tokens), d_in), scratch, ALIGNED):
        weight = rounded_rows(encoder, chunk, tokens.device)
        step = aligned(scratch // (4 * len(weight.rows)), ALIGNED)
        for first in range(0, len(tokens), step):
            rows = slice(first, first + step)
            keep = spread[rows], of_weight(weight), line, vectors
            lists.keep(rows, chunk.start, product(low.rows[rows], weight.rows), *keep)  # so that one product is kept
    codes, listed = lists.codes(tokens, encoder.weight, vectors)
    best, order = codes.topk(k, dim=1)
    if architecture.rectify:
        best, line = best.relu(), line.relu()
    features = listed.gather(1, order).clamp_max(d_sae - 1).long()  # a list shorter than k ends in no feature
    return SparseCodes(best, features), (best[:, -1] >= line) & (lists.count <= room)


def _columns(tokens: int, d_in: int) -> int:
    """Numbers of a feature that a chunk has: of its row, or of its products where all tokens come in one."""
    return max(d_in, tokens) if tokens <= MOST_TOKENS else d_in


def _line(
    low: Rounded, encoder: Part, architecture: Architecture, vectors: dict[str, Tensor], scratch: int
) -> tuple[Tensor, int]:
    """How high a feature has to lie to be listed, (tokens,), and how many there is room for."""
    (d_sae, d_in), k = encoder.weight.shape, architecture.k or 0
    most = aligned(scratch // (4 * d_in), ALIGNED)
    sample = torch.arange(0, d_sae, max(EVERY, ceil(d_sae / most)), device=low.rows.device)
    sample = sample[: aligned(len(sample), ALIGNED)]
    weight = rounded_rows(encoder, sample, low.rows.device)
    rank, room = _rank_and_room(k, len(sample), d_sae)
    line = torch.empty(len(low.rows), device=low.rows.device)
    step = aligned(scratch // (4 * len(sample)), ALIGNED)
    for first in range(0, len(line), step):
        rows = slice(first, first + step)
        high = ordered(highest(Rounded._make(part[rows] for part in low), weight), vectors, sample, architecture)
        line[rows] = high.topk(rank, dim=1, sorted=False).values.amin(dim=1)
    return line, room


def _rank_and_room(k: int, sample: int, d_sae: int) -> tuple[int, int]:
    """r, and a number of features of which so many as r are hardly ever missing in a sample."""
    share = sample / d_sae
    expected = (k + k // 2 + SPARE) * share
    rank = min(sample, ceil(expected + DEVIATIONS * expected**0.5) + 1)
    root = (DEVIATIONS + (DEVIATIONS**2 + 4 * rank) ** 0.5) / 2  # root² - DEVIATIONS · root = rank
    return rank, min(d_sae, max(k, ceil(root**2 / share)))

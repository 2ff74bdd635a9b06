"""TopK by candidates: a product in bfloat16 proposes them, float32 decides, and a bound tells where that settles it.

The product and the bound of `bound.py` together lie above whatever float32 would find. Candidates are the features
that lie highest; where there are kernels, those that lie above a line, see `above.py`. Where k of them are, in float32,
at least what the best one left out can be, nothing that was left out belongs to the k; where they are not, the token's
codes are computed from all features.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from ..activations import Architecture, RunningTopK, SparseCodes
from ..weights import Part, aligned, feature_chunks
from .availability import have_kernels
from .rounding import ALIGNED, Rounded, highest, of_tokens, of_weight, ordered, product, rounded, rounded_rows

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


EACH = 3  # candidates for each feature that is kept
FEWEST = 32
WORTH = 16  # from how many features for each candidate on
TRIED = 256  # tokens that are tried first
MOST_OPEN = 0.25  # share of them that may stay open for the others to be tried at all

Full = Callable[[Tensor], SparseCodes]


def worthwhile(encoder: Part, architecture: Architecture, device: torch.device) -> bool:
    """Whether bfloat16 is so much faster there that float32 should only decide. CPUs are left out: most lack it."""
    k = architecture.k or 0
    return (
        architecture.kind == "topk"
        and encoder.weight.is_cuda
        and torch.version.cuda is not None  # ROCm's devices are called so too
        and encoder.weight.device == device  # what must be brought there is brought once, for the full product
        and len(encoder.weight) >= WORTH * _wanted(k)
        and "dtype" in torch.ops.aten.mm.overloads()  # sums in float32 whatever the settings, from torch 2.8 on
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def topk_codes(centred: Tensor, encoder: Part, architecture: Architecture, full: Full, scratch: int) -> SparseCodes:
    """Codes (tokens, k) of tokens as the encoder reads them, (tokens, d) float32; `full` encodes those left open.

    If many of the first tokens stay open, the others are not tried. Temporary tensors take about `scratch` bytes each.
    """
    if _wanted(architecture.k or 0) >= len(encoder.weight):
        return full(centred)
    parts: list[SparseCodes] = []
    open_ = 0
    first = len(centred) if have_kernels(encoder.weight) else TRIED  # kernels cost too little to try
    for tokens in (centred[:first], centred[first:]):
        if parts and not len(tokens):
            break
        if open_ > MOST_OPEN * TRIED:
            parts.append(full(tokens))
            continue
        found, settled = _tried(tokens, encoder, architecture, scratch)
        left = (~settled).nonzero().flatten()
        open_ = len(left)
        if open_:
            for kept, exact in zip(found, full(tokens[left]), strict=True):
                kept[left] = exact
        parts.append(found)
    return SparseCodes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _wanted(k: int) -> int:
    return max(EACH * k, FEWEST)


def _tried(tokens: Tensor, encoder: Part, architecture: Architecture, scratch: int) -> tuple[SparseCodes, Tensor]:
    """The best k of each token's candidates, (tokens, k), and (tokens,) whether no other feature can be among them."""
    vectors = _vectors(encoder, tokens.device)
    if have_kernels(encoder.weight):
        return listed_codes(tokens, encoder, architecture, vectors, scratch)
    candidates, limit = _proposed(tokens, encoder, architecture, vectors, scratch)
    values = torch.empty(candidates.shape, device=tokens.device)
    step = max(1, scratch // (4 * encoder.weight.shape[1] * candidates.shape[1]))
    for first in range(0, len(tokens), step):
        rows = slice(first, first + step)
        pre = _exact(encoder, candidates[rows], tokens[rows])
        values[rows] = ordered(pre, vectors, candidates[rows], architecture)
    best, order = values.topk(architecture.k or 0, dim=1)
    best = best.relu() if architecture.rectify else best
    return SparseCodes(best, candidates.gather(1, order)), best[:, -1] >= limit


def _proposed(
    tokens: Tensor, encoder: Part, architecture: Architecture, vectors: dict[str, Tensor], scratch: int
) -> tuple[Tensor, Tensor]:
    """The features (tokens, n) that can be highest, and (tokens,) how high any other can be."""
    (d_sae, d_in), device = encoder.weight.shape, tokens.device
    count = _wanted(architecture.k or 0)
    low, proposed = rounded(tokens), RunningTopK(len(tokens), count + 1, device)
    for features in feature_chunks(d_sae, d_in, scratch, ALIGNED):
        weight = rounded_rows(encoder, features, device)
        step = aligned(scratch // (4 * len(weight.rows)), ALIGNED)
        for first in range(0, len(tokens), step):
            rows = slice(first, first + step)
            pre = highest(Rounded._make(part[rows] for part in low), weight)
            proposed.add(features.start, rows, ordered(pre, vectors, features, architecture))
    limit = proposed.values[:, -1]
    return proposed.indices[:, :-1].contiguous(), limit.relu() if architecture.rectify else limit


def _exact(encoder: Part, features: Tensor, tokens: Tensor) -> Tensor:
    """The products (tokens, n) of tokens (tokens, d) float32 and the rows of each one's features (tokens, n)."""
    rows = encoder.weight.index_select(0, features.flatten()).unflatten(0, features.shape)
    if rows.is_cuda and rows.dtype == torch.bfloat16:
        return torch.bmm(rows, _in_thirds(tokens), out_dtype=torch.float32).sum(2)
    return torch.bmm(rows.float(), tokens.unsqueeze(2)).squeeze(2)


def _in_thirds(tokens: Tensor) -> Tensor:
    """(tokens, d, 8): three numbers in bfloat16, whose sum is the one in float32, and zeros that fill up."""
    parts = torch.zeros(len(tokens), 8, tokens.shape[1], dtype=torch.bfloat16, device=tokens.device)
    left = tokens
    for place in range(3):
        parts[:, place] = left
        left = left - parts[:, place].float()
    return parts.mT


def _vectors(encoder: Part, device: torch.device) -> dict[str, Tensor]:
    found = {name: encoder.vector(name, device) for name in encoder.vectors if name != "input_bias"}
    return {name: vector for name, vector in found.items() if vector is not None}

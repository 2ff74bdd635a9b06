"""TopK by candidates: a product in bfloat16 proposes them, float32 decides, and a bound tells where that settles it.

With ĉ and ŵ a token and an encoder row in bfloat16, and u = 2⁻²¹ above what d sums in float32 lose, twice over:

    |c · w - sum of ĉ_i ŵ_i| ≤ ‖c - ĉ‖ ‖w‖ + ‖ĉ‖ ‖w - ŵ‖ + (d + 8) u ‖c‖ ‖w‖

So the product and this bound together lie above whatever float32 would find, in any order of the sums. Candidates are
the features that lie highest. Where k of them are, in float32, at least what the first one left out can be, nothing
that was left out belongs to the k; where they are not, the token's codes are computed from all features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .activations import Architecture, RunningTopK, SparseCodes
from .weights import Part, aligned, feature_chunks

EACH = 3  # candidates for each feature that is kept
FEWEST = 32
WORTH = 16  # from how many features for each candidate on
TRIED = 256  # tokens that are tried first
ALIGNED = 256  # rows and columns of products, in whole numbers of it where it can be: else GPUs take slow kernels
MOST_OPEN = 0.25  # share of them that may stay open for the others to be tried at all
SUMMING = 2.0**-21  # of sums in float32, on tensor cores too, which cut off what they shift out
FLOOR = 2.0**-50  # a number whose square float32 may not hold counts as this
SLACK = 1.01  # for the arithmetic of the bound itself

Full = Callable[[Tensor], SparseCodes]


class Rounded(NamedTuple):
    """Rows (n, d) in bfloat16; upper bounds of how long they were, and of how far rounding moved them, (n,) each."""

    rows: Tensor
    length: Tensor
    moved: Tensor


def worthwhile(encoder: Part, architecture: Architecture, device: torch.device) -> bool:
    """Whether bfloat16 is so much faster there that float32 should only decide: on no CPU that was measured."""
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
    parts, open_ = [], 0
    for tokens in (centred[:TRIED], centred[TRIED:]):
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


def rounded(rows: Tensor) -> Rounded:
    low = rows.bfloat16()
    moved = torch.zeros(len(rows), device=rows.device) if rows.dtype == low.dtype else _length(rows - low.to(rows))
    return Rounded(low, _length(rows), moved)


def highest(tokens: Rounded, weight: Rounded) -> Tensor:
    """What no float32 product of the rows before they were rounded lies above, (tokens, features)."""
    sums = (tokens.rows.shape[1] + 8) * SUMMING
    left = torch.stack([tokens.moved + sums * tokens.length, tokens.length + tokens.moved], dim=1) * SLACK
    return _product(tokens.rows, weight.rows).addmm_(left, torch.stack([weight.length, weight.moved]))


def _wanted(k: int) -> int:
    return max(EACH * k, FEWEST)


def _length(rows: Tensor) -> Tensor:
    d = rows.shape[1]
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32) * SLACK + FLOOR * d**0.5


def _product(tokens: Tensor, weight: Tensor) -> Tensor:
    """Of bfloat16, summed and returned in float32."""
    if tokens.is_cuda:
        return torch.mm(tokens, weight.T, out_dtype=torch.float32)
    return tokens.float() @ weight.float().T


def _tried(tokens: Tensor, encoder: Part, architecture: Architecture, scratch: int) -> tuple[SparseCodes, Tensor]:
    """The best k of each token's candidates, (tokens, k), and (tokens,) whether no other feature can be among them."""
    vectors = _vectors(encoder, tokens.device)
    candidates, limit = _proposed(tokens, encoder, architecture, vectors, scratch)
    values = torch.empty(candidates.shape, device=tokens.device)
    step = max(1, scratch // (4 * encoder.weight.shape[1] * candidates.shape[1]))
    for first in range(0, len(tokens), step):
        rows = slice(first, first + step)
        pre = _exact(encoder, candidates[rows], tokens[rows])
        values[rows] = _ordered(pre, vectors, candidates[rows], architecture)
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
        stored = encoder.weight[features]
        weight = rounded(stored if stored.dtype == torch.bfloat16 else encoder.feature_rows(features, device))
        step = aligned(scratch // (4 * len(stored)), ALIGNED)
        for first in range(0, len(tokens), step):
            rows = slice(first, first + step)
            pre = highest(Rounded._make(part[rows] for part in low), weight)
            proposed.add(features.start, rows, _ordered(pre, vectors, features, architecture))
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


def _ordered(pre: Tensor, vectors: dict[str, Tensor], features: slice | Tensor, architecture: Architecture) -> Tensor:
    """Codes without the ReLU, written over `pre`. Each step keeps the order of two numbers of one feature.

    So does the ReLU, of all features; it comes when few numbers are left.
    """
    if "encoder_bias" in vectors:
        pre += vectors["encoder_bias"][features]
    if architecture.decoder_norm != "none":
        pre *= vectors["decoder_norm"][features]
    return pre

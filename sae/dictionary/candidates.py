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

from .activations import Architecture, RunningTopK, SparseCodes, activate
from .weights import Part, feature_chunks

EACH = 4  # candidates for each feature that is kept
FEWEST = 32
WORTH = 16  # from how many features for each candidate on
TRIED = 256  # tokens that are tried first
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
    (d_sae, d_in), device = encoder.weight.shape, tokens.device
    count = _wanted(architecture.k or 0)
    low, vectors = rounded(tokens), _vectors(encoder, device)
    proposed = RunningTopK(len(tokens), count + 1, device)
    for features in feature_chunks(d_sae, d_in, scratch):
        stored = encoder.weight[features]
        weight = rounded(stored if stored.dtype == torch.bfloat16 else encoder.feature_rows(features, device))
        step = max(1, scratch // (4 * len(stored)))
        for first in range(0, len(tokens), step):
            rows = slice(first, first + step)
            pre = highest(Rounded._make(part[rows] for part in low), weight)
            proposed.add(features.start, rows, _codes(pre, vectors, features, architecture))
    candidates, limit = proposed.indices[:, :-1], proposed.values[:, -1]
    values = torch.empty(candidates.shape, device=device)
    step = max(1, scratch // (4 * d_in * count))
    for first in range(0, len(tokens), step):
        rows = slice(first, first + step)
        weights = encoder.feature_rows(candidates[rows], device)  # (step, count, d_in)
        pre = torch.bmm(weights, tokens[rows].unsqueeze(2)).squeeze(2)
        values[rows] = _codes(pre, vectors, candidates[rows], architecture)
    best, order = values.topk(architecture.k or 0, dim=1)
    return SparseCodes(best, candidates.gather(1, order)), best[:, -1] >= limit


def _vectors(encoder: Part, device: torch.device) -> dict[str, Tensor]:
    found = {name: encoder.vector(name, device) for name in encoder.vectors if name != "input_bias"}
    return {name: vector for name, vector in found.items() if vector is not None}


def _codes(pre: Tensor, vectors: dict[str, Tensor], features: slice | Tensor, architecture: Architecture) -> Tensor:
    """Each step of it keeps the order of two numbers of one feature, so that what lay above lies above."""
    chosen = {name: vector[features] for name, vector in vectors.items()}
    bias = chosen.get("encoder_bias")
    return activate(pre if bias is None else pre + bias, chosen, architecture)

"""Triton's part of a TopK SAE: which features can be among a token's largest, their codes, and sums of decoder rows.

Imported only where Triton is. A token is one program: it holds the token, and goes through a list of rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

PER_WARP = 256
AT_ONCE = 1_024  # features of a token that are looked at by one program


@triton.jit
def _keep(
    pre, moved, length, weight_length, weight_moved, bias, norm, least, kept, count, features, first, room,
    biased: tl.constexpr, scaled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Appends to each token's list the features that can be as high as `least`, by the bound of `bound.py`."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < features
    high = tl.load(pre + token * features + columns, mask=inside, other=0.0)
    high += tl.load(moved + token) * tl.load(weight_length + columns, mask=inside, other=0.0)
    high += tl.load(length + token) * tl.load(weight_moved + columns, mask=inside, other=0.0)
    if biased:
        high += tl.load(bias + first + columns, mask=inside, other=0.0)
    if scaled:
        high *= tl.load(norm + first + columns, mask=inside, other=0.0)
    wanted = inside & (high >= tl.load(least + token))
    number = tl.sum(wanted.to(tl.int32), axis=0)
    if number > 0:
        begin = tl.atomic_add(count + token, number)
        place = begin + tl.cumsum(wanted.to(tl.int32), axis=0) - 1
        tl.store(kept + token * room + place, first + columns, mask=wanted & (place < room))


@triton.jit
def _exact(
    tokens, encoder, bias, norm, listed, count, codes, width, room,
    biased: tl.constexpr, scaled: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The codes, before any ReLU, of the features that a token's list has."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    x = tl.load(tokens + token * width + columns, mask=inside, other=0.0)
    end = tl.minimum(tl.load(count + token), room)
    feature = tl.load(listed + token * room, mask=end > 0, other=0).to(tl.int64)
    for place in range(end):
        following = tl.load(listed + token * room + place + 1, mask=place + 1 < end, other=0).to(tl.int64)
        row = tl.load(encoder + feature * width + columns, mask=inside, other=0.0).to(tl.float32)
        code = tl.sum(x * row, axis=0)
        if biased:
            code += tl.load(bias + feature)
        if scaled:
            code *= tl.load(norm + feature)
        tl.store(codes + token * room + place, code)
        feature = following


@triton.jit
def _decode(decoder, features, values, starts, result, tokens, total, width, block: tl.constexpr):
    """Of each token: the sum of its features' rows, times their values."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    found = tl.zeros([block], dtype=tl.float32)
    begin = tl.load(starts + token)
    end = tl.load(starts + token + 1, mask=token + 1 < tokens, other=total)
    feature = tl.load(features + begin, mask=begin < end, other=0)
    for place in range(begin, end):
        later = tl.load(features + place + 1, mask=place + 1 < end, other=0)  # on its way while this one's row is
        row = tl.load(decoder + feature * width + columns, mask=inside, other=0.0).to(tl.float32)
        found += tl.load(values + place) * row
        feature = later
    tl.store(result + token * width + columns, found, mask=inside)


class Lists:
    """For each token a list of features that is filled chunk by chunk, with room for so many."""

    def __init__(self, tokens: int, room: int, device: torch.device) -> None:
        self.kept = torch.empty(tokens, room, dtype=torch.int32, device=device)
        self.count = torch.zeros(tokens, dtype=torch.int32, device=device)

    @property
    def room(self) -> int:
        return self.kept.shape[1]

    def keep(
        self, rows: slice, first: int, pre: Tensor, of_tokens: Tensor, of_weight: Tensor, least: Tensor,
        vectors: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        """Of products pre (tokens, n) of the tokens `rows` and the features from `first` on, those that may count.

        Those are the ones with pre + of_tokens · of_weight, (tokens, 2) · (2, n), and then with bias and norm, of at
        least the token's `least` (tokens,).
        """
        count, features = pre.shape
        (moved, length), (weight_length, weight_moved) = of_tokens.T.contiguous(), of_weight.contiguous()
        bias, norm = vectors.get("encoder_bias"), vectors.get("decoder_norm")
        with torch.cuda.device_of(pre):
            _keep[(count, triton.cdiv(features, AT_ONCE))](
                pre, moved, length, weight_length, weight_moved, pre if bias is None else bias,
                pre if norm is None else norm, least[rows], self.kept[rows], self.count[rows], features, first,
                self.room, bias is not None, norm is not None, AT_ONCE,
            )  # fmt: skip

    def codes(self, tokens: Tensor, encoder: Tensor, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Codes before the ReLU, -inf where a list has ended, and their features in ascending order, (tokens, room)."""
        ended = torch.arange(self.room, device=tokens.device) >= self.count.unsqueeze(1)
        listed = self.kept.masked_fill(ended, len(encoder)).sort(dim=1).values  # the order they came in is chance
        codes = torch.full(listed.shape, -torch.inf, device=tokens.device)
        bias, norm = vectors.get("encoder_bias"), vectors.get("decoder_norm")
        tokens, width = tokens.contiguous(), tokens.shape[1]
        with torch.cuda.device_of(tokens):
            _exact[(len(tokens),)](
                tokens, encoder, tokens if bias is None else bias, tokens if norm is None else norm, listed,
                self.count, codes, width, self.room, bias is not None, norm is not None,
                triton.next_power_of_2(width), num_warps=warps(width),
            )  # fmt: skip
        return codes, listed


def decode(decoder: Tensor, features: Tensor, values: Tensor, starts: Tensor) -> Tensor:
    """(len(starts), d_in) float32: for each part of the list, the sum of its features' rows times their values."""
    count, width = len(starts), decoder.shape[1]
    result = torch.empty(count, width, device=decoder.device)
    with torch.cuda.device_of(decoder):
        _decode[(count,)](
            decoder, features.contiguous(), values.contiguous(), starts, result, count, len(features), width,
            triton.next_power_of_2(width), num_warps=warps(width),
        )  # fmt: skip
    return result


def warps(width: int, each: int = PER_WARP) -> int:
    """Of a program that holds a row of this width, so many numbers each."""
    return min(16, max(1, triton.next_power_of_2(width) // each))

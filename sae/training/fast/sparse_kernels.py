"""Triton's part of a training step: the gradients of both matrices in one go.

Imported only where Triton is. Sums have a fixed order: the same step gives the same gradients.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...dictionary.fast.kernels import warps

PART = 128  # of a feature's tokens, for one program; a feature that fires on many has several parts


@triton.jit
def _gradients(
    decoder, gradient, centred, tokens, values, begins, owners, firsts, of_decoder, of_encoder, of_bias, features,
    width, part: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Of each part of a feature's tokens: the sums of their gradients times codes, and of what goes on to the encoder.

    The first part of each feature comes first, at its own row; further parts have rows after those.
    """
    row = tl.program_id(0).to(tl.int64)
    further = row >= features
    feature = tl.load(owners + row - features, mask=further, other=row)
    known = feature < features  # not all rows for further parts are in use
    number = tl.where(further, row - features - tl.load(firsts + feature, mask=further & known, other=0) + 1, 0)
    begin = tl.load(begins + feature, mask=known, other=0) + number * part
    end = tl.minimum(tl.load(begins + feature + 1, mask=known, other=0), begin + part)
    columns = tl.arange(0, block)
    inside = columns < width
    direction = tl.load(decoder + feature * width + columns, mask=inside & (begin < end), other=0.0)
    for_decoder = tl.zeros([block], dtype=tl.float32)
    for_encoder = tl.zeros([block], dtype=tl.float32)
    for_bias = 0.0
    token = tl.load(tokens + begin, mask=begin < end, other=0)
    for place in range(begin, end):
        later = tl.load(tokens + place + 1, mask=place + 1 < end, other=0)
        value = tl.load(values + place)
        g = tl.load(gradient + token * width + columns, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(centred + token * width + columns, mask=inside, other=0.0).to(tl.float32)
        for_decoder += value * g
        change = tl.where(value > 0, tl.sum(g * direction, axis=0), 0.0)
        for_encoder += change * x
        for_bias += change
        token = later
    tl.store(of_decoder + row * width + columns, for_decoder, mask=inside)
    tl.store(of_encoder + row * width + columns, for_encoder, mask=inside)
    tl.store(of_bias + row, for_bias)


@triton.jit
def _gather_parts(sums, owners, firsts, counts, features, width, block: tl.constexpr):
    """Adds the further parts of a feature to its row."""
    extra = tl.program_id(0).to(tl.int64)
    feature = tl.load(owners + extra)
    known = feature < features
    first = tl.load(firsts + feature, mask=known, other=-1)
    if extra == first:
        columns = tl.arange(0, block)
        inside = columns < width
        found = tl.load(sums + feature * width + columns, mask=inside, other=0.0)
        for number in range(tl.load(counts + feature)):
            found += tl.load(sums + (features + first + number) * width + columns, mask=inside, other=0.0)
        tl.store(sums + feature * width + columns, found, mask=inside)


class Gradients(NamedTuple):
    """Of the encoder (d_sae, d_in), its bias (d_sae) and the decoder (d_sae, d_in)."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor


def gradients(
    decoder: Tensor, gradient: Tensor, centred: Tensor, tokens: Tensor, features: Tensor, values: Tensor
) -> Gradients:
    """From the gradient (n, d_in) of what `decode` gave, the tokens (n, d_in) less the bias, and the list of codes."""
    count, width = decoder.shape
    ascending, order = features.sort(stable=True)
    begins = torch.searchsorted(ascending, torch.arange(count + 1, device=features.device))
    further = (begins.diff() - 1).clamp_min(0) // PART
    ends = further.cumsum(0)
    extra = len(features) // PART  # there are never more
    owners = torch.searchsorted(ends, torch.arange(extra, device=features.device), right=True)
    firsts = ends - further
    of_decoder, of_encoder = (decoder.new_empty(count + extra, width) for _ in range(2))
    of_bias = decoder.new_empty(count + extra, 1)
    with torch.cuda.device_of(decoder):
        _gradients[(count + extra,)](
            decoder, gradient, centred, tokens[order], values[order], begins, owners, firsts, of_decoder, of_encoder,
            of_bias, count, width, PART, triton.next_power_of_2(width), num_warps=warps(width),
        )  # fmt: skip
        for sums in (of_decoder, of_encoder, of_bias) if extra else ():
            columns = sums.shape[1]
            _gather_parts[(extra,)](
                sums, owners, firsts, further, count, columns, triton.next_power_of_2(columns),
                num_warps=warps(columns),
            )  # fmt: skip
    return Gradients(of_encoder[:count], of_bias[:count, 0], of_decoder[:count])

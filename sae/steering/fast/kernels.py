"""Triton's way to add one row at every token: each token is read and written once, and what the record has is made.

On a GPU steering waits for memory and for the start of kernels. Imported only where Triton is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...dictionary.fast.availability import WIDEST
from ...dictionary.fast.kernels import warps

PER_WARP = 512
AT_ONCE = 1_024  # tokens
FACTS = 4


@triton.jit
def _add(
    x, out, row, amounts, weight, found, tokens, width, row_step, token_step, weight_row_step, weight_token_step,
    longest, given: tl.constexpr, weighted: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Of one token: the sum; and ‖x‖, the amount, ‖Δ‖² and what of it is lost, in four rows of `found`."""
    place = tl.program_id(0).to(tl.int64)
    count = tl.num_programs(0)
    columns = tl.arange(0, block)
    inside = columns < width
    where = (place // tokens) * row_step + (place % tokens) * token_step
    before = tl.load(x + where + columns, mask=inside, other=0.0)
    wide = before.to(tl.float32)
    length = tl.sqrt(tl.sum(wide * wide, axis=0))
    amount = length
    if given:
        amount = tl.load(amounts + place)
    amount = tl.where(amount > longest, longest, tl.where(amount < -longest, -longest, amount))  # NaN stays
    if weighted:
        amount *= tl.load(weight + (place // tokens) * weight_row_step + (place % tokens) * weight_token_step)
    delta = amount * tl.load(row + columns, mask=inside, other=0.0)
    after = (wide + delta).to(before.dtype)
    tl.store(out + place * width + columns, after, mask=inside)
    squares = delta * delta
    tl.store(found + place, length)
    tl.store(found + count + place, amount)
    tl.store(found + 2 * count + place, tl.sum(squares, axis=0))
    tl.store(found + 3 * count + place, tl.sum(tl.where(after == before, squares, 0.0), axis=0))


@triton.jit
def _sum_up(
    found, weight, row_length, facts, tokens, count, weight_row_step, weight_token_step, largest_ratio,
    weighted: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The numbers of a whole call. The largest ratio is NaN where one was, and so is ‖x‖ where one was not finite."""
    scale = tl.load(row_length)
    ratios, most, lengths, steered, wanted, lost, broken = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for first in range(0, count, block):
        places = first + tl.arange(0, block)
        inside = places < count
        if weighted:
            where = (places // tokens) * weight_row_step + (places % tokens) * weight_token_step
            inside = inside & (tl.load(weight + where, mask=inside, other=0.0) != 0)
        length = tl.load(found + places, mask=inside, other=0.0)
        amount = tl.load(found + count + places, mask=inside, other=0.0)
        ratio = tl.abs(amount) * scale / tl.where(length < 1e-12, 1e-12, length)
        ratio = tl.where(inside, tl.where(ratio > largest_ratio, largest_ratio, ratio), 0.0)
        ratios += tl.sum(ratio, axis=0)
        most = tl.maximum(most, tl.max(ratio, axis=0))
        lengths = tl.maximum(lengths, tl.max(length, axis=0))
        broken += tl.sum(length * 0.0, axis=0)
        steered += tl.sum(inside.to(tl.float32), axis=0)
        wanted += tl.sum(tl.load(found + 2 * count + places, mask=inside, other=0.0), axis=0)
        lost += tl.sum(tl.load(found + 3 * count + places, mask=inside, other=0.0), axis=0)
    tl.store(facts, ratios / tl.maximum(steered, 1.0))
    tl.store(facts + 1, most + 0.0 * ratios)
    tl.store(facts + 2, lengths + broken)
    tl.store(facts + 3, 1 - lost / tl.maximum(wanted, 1e-30))


def fits(x: Tensor) -> bool:
    """Whether tokens lie so that the kernels can read them."""
    return x.ndim == 3 and x.stride(-1) == 1 and 0 < x.shape[-1] <= WIDEST and x.numel() > 0


def add_row(
    x: Tensor, row: Tensor, row_length: Tensor, amounts: Tensor | None, weight: Tensor | None, longest: float,
    largest_ratio: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x (rows, tokens, d) + weight · amount · row, summed in float32 and rounded once; and the numbers of `Facts`.

    `amounts` (rows, tokens, 1) are held within ± `longest`, and are ‖x‖ of each token where they are None. `weight` is
    (rows, tokens), or None for 1. Tokens of the weight 0 don't count in the facts.
    """
    rows, tokens, width = x.shape
    count, out = rows * tokens, torch.empty_like(x, memory_format=torch.contiguous_format)
    found, facts = torch.empty(4, count, device=x.device), torch.empty(FACTS, device=x.device)
    steps = (0, 0) if weight is None else weight.stride()
    weight_or_row = row if weight is None else weight  # a kernel takes no None
    with torch.cuda.device_of(x):
        _add[(count,)](
            x, out, row, row if amounts is None else amounts.contiguous(), weight_or_row, found, tokens, width,
            x.stride(0), x.stride(1), *steps, longest, amounts is not None, weight is not None,
            triton.next_power_of_2(width), num_warps=warps(width, PER_WARP),
        )  # fmt: skip
        _sum_up[(1,)](
            found, weight_or_row, row_length, facts, tokens, count, *steps, largest_ratio, weight is not None,
            AT_ONCE,
        )  # fmt: skip
    return out, facts

"""Δ that is one row at every token, but for its length: added, measured and sampled without a tensor of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CACHED = 128 * 3072  # numbers of x that a CPU works on at once, so that their float32 stays in its cache
LONGEST = 2.0**64  # what the norm of a token can be before its square leaves float32
# |row| up to which LONGEST · |row| stays below half the distance of float32's two largest numbers, 2^103, and so of
# bfloat16's: such a Δ takes no finite number beyond them
SAFE = 2.0**38


def pieces(x: Tensor) -> Iterator[slice]:
    """Slices of the tokens of x (rows, tokens, d): all at once, but on a CPU."""
    tokens = x.shape[-2]
    step = max(1, CACHED * tokens // max(1, x.numel())) if x.device.type == "cpu" else max(1, tokens)
    return (slice(first, first + step) for first in range(0, tokens, step))


def token_norms(x: Tensor) -> Tensor:
    """‖x‖ of each token, (rows, tokens) float32 for x (rows, tokens, d) of any floating type."""
    if x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32)
    norms = torch.empty(x.shape[:-1])
    for piece in pieces(x):
        norms[:, piece] = x[:, piece].float().norm(dim=-1)
    return norms


def held_sum(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """x + Δ, added in x's dtype, and (...,) the tokens of which a number would have gone beyond that dtype's largest.

    Such numbers are held there. Infinite ones, of which a norm makes NaN, would spoil the tokens all over the picture.
    """
    plain = x + delta.to(x.dtype)
    if x.device.type == "cpu" and plain.sum(dtype=torch.float32).isfinite():  # where asking is free
        return plain, torch.zeros(x.shape[:-1], dtype=torch.bool)
    beyond = plain.isinf() & x.isfinite()
    largest = torch.finfo(x.dtype).max
    held = (x.float() + delta).clamp(-largest, largest).to(x.dtype)
    return torch.where(beyond, held, plain), beyond.any(-1)


@dataclass(frozen=True)
class Push:
    """Δ = amount · row, in float32."""

    amounts: Tensor  # (..., 1): of each token
    row: Tensor  # (d_in,), the same in the whole run
    length: Tensor  # (): ‖row‖
    safe: bool  # whether no number of the row is larger than SAFE

    @property
    def delta(self) -> Tensor:
        """(..., d_in)"""
        return self.amounts * self.row

    @property
    def norms(self) -> Tensor:
        """‖Δ‖ of each token, (...,)."""
        return self.amounts.squeeze(-1).abs() * self.length

    def weighted(self, weight: Tensor) -> Push:
        """With each token's amount times its weight (...,), which is 1 at most."""
        return Push(self.amounts * weight.unsqueeze(-1), self.row, self.length, self.safe)

    def added(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`held_sum` of x (rows, tokens, d_in) and Δ; None where no number can go beyond the dtype's largest."""
        safe = self.safe and torch.finfo(x.dtype).max > LONGEST  # float32 and bfloat16
        amounts = self.amounts.clamp(-LONGEST, LONGEST) if safe else self.amounts
        out = torch.empty_like(x)
        held = None if safe else torch.empty(x.shape[:-1], dtype=torch.bool, device=x.device)
        for piece in pieces(x):
            delta = amounts[:, piece] * self.row
            if held is None:
                out[:, piece] = x[:, piece] + delta.to(x.dtype)
            else:
                out[:, piece], held[:, piece] = held_sum(x[:, piece], delta)
        return out, held

    def at(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Δ at some tokens, (n, d_in)."""
        return self.amounts[rows, tokens] * self.row

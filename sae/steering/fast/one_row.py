"""Δ that is one row at every token, but for its length: added, measured and sampled without a tensor of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...dictionary.fast.availability import works

CACHED = 128 * 3072  # numbers of x that a CPU works on at once, so that their float32 stays in its cache
LONGEST = 2.0**64  # what the norm of a token can be before its square leaves float32
# |row| up to which LONGEST · |row| stays below half the distance of float32's two largest numbers, 2^103, and so of
# bfloat16's: such a Δ takes no finite number beyond them
SAFE = 2.0**38

LARGEST_RATIO = 1e12  # of ‖Δ‖/‖x‖, so that means of it stay finite

Place = tuple[Tensor | slice, Tensor | slice]  # of rows and of tokens


def pieces(x: Tensor) -> Iterator[slice]:
    """Slices of the tokens of x (rows, tokens, d): all at once, but on a CPU."""
    tokens = x.shape[-2]
    step = max(1, CACHED * tokens // max(1, x.numel())) if _on_cpu(x) else max(1, tokens)
    return (slice(first, first + step) for first in range(0, tokens, step))


def token_norms(x: Tensor) -> Tensor:
    """‖x‖ of each token, (rows, tokens) float32 for x (rows, tokens, d) of any floating type."""
    if not _on_cpu(x):
        return _lengths(x)
    norms = torch.empty(x.shape[:-1])
    for piece in pieces(x):
        norms[:, piece] = x[:, piece].float().norm(dim=-1)
    return norms


def rounded_sum(x: Tensor, delta: Tensor) -> Tensor:
    """x + Δ, for Δ in float32: added there and rounded once to x's dtype."""
    if x.dtype == torch.float32 or x.requires_grad or delta.requires_grad:
        return (x + delta).to(x.dtype)
    out = torch.empty_like(x)
    for piece in pieces(x):
        torch.add(x[..., piece, :], delta[..., piece, :], out=out[..., piece, :])
    return out


def held_sum(x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """`rounded_sum`, and (...,) the tokens of which a number would have gone beyond the dtype's largest.

    Such numbers are held there. Infinite ones, of which a norm makes NaN, would spoil the tokens all over the picture.
    """
    plain = rounded_sum(x, delta)
    if _on_cpu(x) and plain.sum(dtype=torch.float32).isfinite():  # where asking is free
        return plain, torch.zeros(x.shape[:-1], dtype=torch.bool)
    beyond = plain.isinf() & x.isfinite()
    largest = torch.finfo(x.dtype).max
    return torch.where(beyond, plain.clamp(-largest, largest), plain), beyond.any(-1)


class PreparedRow(NamedTuple):
    """A row on one device, and what is known of it."""

    row: Tensor  # (d_in,)
    length: Tensor  # (): ‖row‖
    safe: bool  # whether no number of it is larger than SAFE
    kernels: bool  # whether those of `kernels.py` work there


def prepared_row(row: Tensor, device: torch.device) -> PreparedRow:
    """Of a row (d_in,) on the CPU."""
    safe = bool(row.abs().max() <= SAFE)
    return PreparedRow(row.to(device), row.norm().to(device), safe, kernels_work(device))


@dataclass(frozen=True)
class Push:
    """Δ = weight · amount · row at each token, in float32."""

    amounts: Tensor | None  # (rows, tokens, 1); None where it is the norm of the token that it is added to
    row: Tensor  # (d_in,), the same in the whole run
    length: Tensor  # (): ‖row‖
    safe: bool  # whether no number of the row is larger than SAFE
    kernels: bool = False  # whether those of `kernels.py` may be used
    weight: Tensor | None = None  # (rows, tokens), 1 at most; None where it is 1

    def added(self, x: Tensor) -> Pushed:
        """Δ added to x (rows, tokens, d_in)."""
        safe = self.safe and torch.finfo(x.dtype).max > LONGEST  # float32 and bfloat16
        if self.kernels and safe and x.dtype == torch.bfloat16 and not x.requires_grad:
            from . import kernels

            if kernels.fits(x):
                given = self.row, self.length, self.amounts, self.weight
                steered, facts = kernels.add_row(x, *given, LONGEST, LARGEST_RATIO)
                return Pushed(steered, None, Facts(facts))
        out, lengths = torch.empty_like(x), torch.empty(x.shape[:-1], device=x.device)
        amounts = lengths.new_empty((*lengths.shape, 1))
        held = None if safe else torch.empty_like(lengths, dtype=torch.bool)
        for piece in pieces(x):
            part = x[:, piece]
            wide = part.float() if _on_cpu(x) else part
            lengths[:, piece] = _lengths(wide)
            amounts[:, piece] = self._amounts(lengths[:, piece], piece, safe)
            if held is None:
                _add(part, wide, amounts[:, piece], self.row, out[:, piece])
            else:
                out[:, piece], held[:, piece] = held_sum(part, amounts[:, piece] * self.row)
        return Pushed(out, held, RowDelta(lengths, amounts, self.row, self.length))

    def _amounts(self, lengths: Tensor, piece: slice, safe: bool) -> Tensor:
        """Of a piece of the tokens, (rows, tokens, 1)."""
        amounts = lengths.unsqueeze(-1) if self.amounts is None else self.amounts[:, piece]
        amounts = amounts.clamp(-LONGEST, LONGEST) if safe else amounts
        return amounts if self.weight is None else amounts * self.weight[:, piece].unsqueeze(-1)


class Facts(NamedTuple):
    """What the record has of every call, already made."""

    numbers: Tensor  # (4,): mean and largest ‖Δ‖/‖x‖, largest ‖x‖, share of ‖Δ‖² that the dtype kept


class RowDelta(NamedTuple):
    """What the record can make them of, without Δ itself."""

    lengths: Tensor  # (rows, tokens): ‖x‖
    amounts: Tensor  # (rows, tokens, 1)
    row: Tensor  # (d_in,)
    row_length: Tensor  # ()

    @property
    def norms(self) -> Tensor:
        """‖Δ‖ of each token, (rows, tokens)."""
        return self.amounts.squeeze(-1).abs() * self.row_length

    def at(self, place: Place) -> Tensor:
        """Δ at some tokens, (n, d_in) or (rows, n, d_in)."""
        return self.amounts[place] * self.row


class Pushed(NamedTuple):
    """What `Push.added` made."""

    steered: Tensor  # (rows, tokens, d_in)
    held: Tensor | None  # (rows, tokens), see `held_sum`; None where no number can go beyond the dtype's largest
    change: Facts | RowDelta


@lru_cache
def kernels_work(device: torch.device) -> bool:
    """Whether those of `kernels.py` do there what they should, by trying once."""
    return works(lambda: _attempt(device))


def _attempt(device: torch.device) -> bool:
    x = torch.ones(1, 2, 16, dtype=torch.bfloat16, device=device)
    if not x.is_cuda:
        return False
    from . import kernels

    row = torch.arange(16, dtype=torch.float32, device=device)
    steered, facts = kernels.add_row(x, row, row.norm(), None, None, LONGEST, LARGEST_RATIO)
    return bool(torch.equal(steered, (x.float() + 4 * row).bfloat16()) and facts.isfinite().all())


def _lengths(x: Tensor) -> Tensor:
    """‖x‖ along the last dimension, float32; torch refuses to take float64 as that."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).float()


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _add(x: Tensor, wide: Tensor, amounts: Tensor, row: Tensor, out: Tensor) -> None:
    """`rounded_sum` of x and amounts · row into `out`, without that Δ in memory where it can be.

    `wide` is x in float32 on a CPU, and is written over there where it is a copy.
    """
    if torch.finfo(x.dtype).bits > 16 or x.requires_grad:
        out[:] = x + amounts * row
    elif _on_cpu(x):
        out[:] = wide.addcmul_(amounts, row)
    else:
        torch.addcmul(x, amounts, row, out=out)  # one kernel on a GPU

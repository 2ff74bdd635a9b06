"""What will stand in a file, planned before anything large is in memory, and read matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..dictionary.weights import Weight

BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Matrix:
    """The SAE's encoder or decoder with each feature's row times its entry of `factors` (F,), float32."""

    weight: Weight
    dtype: torch.dtype  # as it will be stored
    factors: Tensor | None = None
    turned: bool = False  # stored as (d, F)

    def as_columns(self) -> Matrix:
        """The same, stored as (d, F)."""
        return replace(self, turned=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape[::-1] if self.turned else self.weight.shape

    def blocks(self) -> Iterator[Tensor]:
        """Blocks of rows from the first to the last, on the CPU. The matrix is in memory until they are through."""
        values = self.weight.whole().detach().cpu()
        if self.turned:
            values = values.T
        step = max(1, BLOCK_BYTES // (4 * values.shape[1]))
        for first in range(0, len(values), step):
            block = values[first : first + step]
            if self.factors is not None:
                factors = self.factors if self.turned else self.factors[first : first + step, None]
                block = block.float() * factors
            yield block.to(self.dtype).contiguous()


Stored = Tensor | Matrix


@dataclass(frozen=True)
class Layout:
    """The contents of a target's files."""

    tensors: Mapping[str, Stored]
    config: Mapping[str, Any] | None = None  # goes into a JSON file
    metadata: Mapping[str, str] = field(default_factory=dict)  # goes into the header of a safetensors file


def blocks_of(stored: Stored) -> Iterator[Tensor]:
    if isinstance(stored, Matrix):
        yield from stored.blocks()
    else:
        yield stored.detach().cpu().contiguous()


def bytes_of(stored: Stored) -> int:
    return torch.Size(stored.shape).numel() * stored.dtype.itemsize

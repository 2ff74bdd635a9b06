"""A shuffling buffer between a source of activations, whose tokens come in order, and training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class ActivationBuffer:
    """Mixes tokens from `source` and yields batches (batch_tokens, d_in) in float32.

    It never holds more than `capacity` tokens (in `dtype`; large models go beyond what float16 holds) besides the chunk
    the source is giving. When half of them are used it refills, so that neighbours in the source end up in different
    batches. Every token comes once; at the end of the source fewer than `batch_tokens` may be left over, and are
    dropped.
    """

    def __init__(
        self,
        source: Iterable[Tensor],
        d_in: int,
        batch_tokens: int,
        capacity: int,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity < 2 * batch_tokens:
            raise ValueError(
                f"capacity: a buffer of {capacity} tokens cannot mix batches of {batch_tokens}; "
                f"give {2 * batch_tokens} or more."
            )
        self.source = source
        self.batch_tokens = batch_tokens
        self.rows = torch.empty(capacity, d_in, dtype=dtype, device=device)
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Tensor]:
        chunks = self._checked()
        waiting = self.rows[:0]  # the part of a chunk that found no room
        free, used = torch.arange(len(self.rows)), torch.empty(0, dtype=torch.int64)
        while True:
            filled, waiting = self._fill(free, chunks, waiting)
            used = torch.cat([used, free[:filled]])
            free = free[filled:]
            order = used[torch.randperm(len(used), generator=self.generator)]
            drained = len(free) > 0  # the source could not fill the buffer
            keep = 0 if drained else len(self.rows) // 2
            count = max(1, (len(order) - keep) // self.batch_tokens)
            taken = order[: count * self.batch_tokens]
            for indices in taken.split(self.batch_tokens):
                if len(indices) == self.batch_tokens:
                    yield self.rows[indices.to(self.rows.device)].float()
            if drained:
                return
            used, free = order[len(taken) :], taken

    def _fill(self, free: Tensor, chunks: Iterator[Tensor], waiting: Tensor) -> tuple[int, Tensor]:
        """Writes tokens into the free rows; returns how many, and what is left of the last chunk."""
        filled = 0
        while filled < len(free):
            if len(waiting) == 0:
                following = next(chunks, None)
                if following is None:
                    break
                waiting = following
            count = min(len(free) - filled, len(waiting))
            target = free[filled : filled + count].to(self.rows.device)
            self.rows[target] = waiting[:count].to(self.rows.device, self.rows.dtype)
            waiting = waiting[count:]
            filled += count
        return filled, waiting

    def _checked(self) -> Iterator[Tensor]:
        limit = torch.finfo(self.rows.dtype).max
        for chunk in self.source:
            if chunk.ndim != 2 or chunk.shape[1] != self.rows.shape[1]:
                raise ValueError(
                    f"activations: the buffer takes tokens (n, {self.rows.shape[1]}), but got {tuple(chunk.shape)}."
                )
            # as a Python number: a chunk in half precision would compare with its own infinity
            if len(chunk) and not float(chunk.abs().amax()) <= limit:
                raise ValueError(
                    f"activations: some are NaN or beyond {limit:g}, the limit of {self.rows.dtype}; "
                    "use finite ones, or a buffer in bfloat16 or float32."
                )
            yield chunk

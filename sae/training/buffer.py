"""A shuffling buffer between a source of activations, whose tokens come in order, and training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

LISTS = ("free", "used", "drawn", "taken")  # a buffer's rows by what is in them


class MixingBuffer:
    """Takes chunks of tokens and gives batches (batch_tokens, d_in) in float32, mixed.

    It never holds more than `capacity` tokens (in `dtype`; large models go beyond what float16 holds). When half of
    them are used it wants more, so that neighbours in the source end up in different batches. No token comes twice.
    """

    def __init__(
        self,
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
        self.batch_tokens = batch_tokens
        self.rows = torch.empty(capacity, d_in, dtype=dtype, device=device)
        self.generator = torch.Generator().manual_seed(seed)
        self.free = torch.arange(capacity)  # rows without a token
        self.used = torch.empty(0, dtype=torch.int64)
        self.drawn = torch.empty(0, dtype=torch.int64)  # rows of the next batches, a whole number of these
        self.taken = self.drawn  # the same with those that were given since; free again with the last

    @property
    def hungry(self) -> bool:
        """Whether it has room, and no batches are drawn."""
        return len(self.drawn) == 0 and len(self.free) > 0

    def add(self, chunk: Tensor) -> int:
        """Takes as many tokens of a chunk (n, d_in) as there is room for; says how many. ValueError for bad ones."""
        self._check(chunk)
        count = min(len(self.free), len(chunk))
        target, self.free = self.free[:count], self.free[count:]
        self.rows[target.to(self.rows.device)] = chunk[:count].to(self.rows.device, self.rows.dtype)
        self.used = torch.cat([self.used, target])
        return count

    def take(self, last: bool = False, device: torch.device | None = None) -> Tensor | None:
        """A batch, on another device if one is named, or None where too few tokens are left for one.

        With `last` set nothing more will come.
        """
        if len(self.drawn) == 0:
            self._draw(last)
        if len(self.drawn) == 0:
            return None
        indices, self.drawn = self.drawn[: self.batch_tokens], self.drawn[self.batch_tokens :]
        if len(self.drawn) == 0:
            self.free = torch.cat([self.free, self.taken])
        # float32 there: half the bytes travel
        return self.rows[indices.to(self.rows.device)].to(device or self.rows.device).float()

    def state(self) -> dict[str, Any]:
        """What the next batches depend on, shared with the buffer."""
        kept = {name: getattr(self, name).clone() for name in LISTS}
        return {"rows": self.rows, "generator": self.generator.get_state(), **kept}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. ValueError where it is one of another buffer."""
        if state["rows"].shape != self.rows.shape or state["rows"].dtype != self.rows.dtype:
            raise ValueError(
                f"buffer: the checkpoint's holds {tuple(state['rows'].shape)} in {state['rows'].dtype}, but this run's "
                f"{tuple(self.rows.shape)} in {self.rows.dtype}; use the same configuration."
            )
        self.rows.copy_(state["rows"])
        for name in LISTS:
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])

    def _draw(self, last: bool) -> None:
        order = self.used[torch.randperm(len(self.used), generator=self.generator)]
        keep = 0 if last else len(self.rows) // 2
        count = max(1, (len(order) - keep) // self.batch_tokens) * self.batch_tokens
        if len(order) < count:
            return
        self.drawn = self.taken = order[:count]
        self.used = order[count:]

    def _check(self, chunk: Tensor) -> None:
        if chunk.ndim != 2 or chunk.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"activations: the buffer takes tokens (n, {self.rows.shape[1]}), but got {tuple(chunk.shape)}."
            )
        # as a Python number: a chunk in half precision would compare with its own infinity
        limit = torch.finfo(self.rows.dtype).max
        if len(chunk) and not float(chunk.abs().amax()) <= limit:
            raise ValueError(
                f"activations: some are NaN or beyond {limit:g}, the limit of {self.rows.dtype}; "
                "use finite ones, or a buffer in bfloat16 or float32."
            )


class MixedBatches:
    """Mixes the tokens of one source: iterating yields batches (batch_tokens, d_in) in float32.

    At the end of the source fewer than `batch_tokens` may be left over, and are dropped.
    """

    def __init__(self, source: Iterable[Tensor], buffer: MixingBuffer) -> None:
        self.source = source
        self.buffer = buffer

    def __iter__(self) -> Iterator[Tensor]:
        chunks = iter(self.source)
        waiting: Tensor | None = None  # the part of a chunk that found no room
        ended = False
        while True:
            while not ended and self.buffer.hungry:
                waiting = next(chunks, None) if waiting is None else waiting
                if waiting is None:
                    ended = True
                    break
                rest = waiting[self.buffer.add(waiting) :]
                waiting = rest if len(rest) else None
            batch = self.buffer.take(last=ended)
            if batch is None:
                return
            yield batch

"""Several processes that train one SAE: what they have to agree on. `sae/hosts/accelerate.py` is the real thing."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Peers(Protocol):
    """The processes of a run, each with tokens of its own; every method is called by all of them together."""

    @property
    def count(self) -> int: ...

    @property
    def rank(self) -> int:
        """0..count-1; 0 writes files and tells the progress."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """The mean of everybody's values, the same for all."""
        ...

    def any(self, flags: Tensor) -> Tensor:
        """Where anybody's flags (bool) are set."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Everybody's rows, one rank after the other."""
        ...


class OneProcess:
    """One process."""

    count, rank = 1, 0

    def mean(self, values: Tensor) -> Tensor:
        return values

    def any(self, flags: Tensor) -> Tensor:
        return flags

    def gather(self, rows: Tensor) -> Tensor:
        return rows

"""Whether a run reached its places: a model may leave blocks out, and a fused kernel bypasses a module's hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

from .moment import Moment
from .site import Site
from .taps import Tap

Done = Literal["steered", "read"]


class Reach:
    """Counts of one run at one site, block by block. Plain numbers; safe across threads."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.calls = 0  # of the model, from beginning to end
        self._entered = dict.fromkeys(site.blocks, 0)  # how often a block ran
        self._reached = dict.fromkeys(site.blocks, 0)  # how often its tap got tokens
        self._lock = Lock()

    def call(self) -> None:
        """The model was called and came to its end."""
        with self._lock:
            self.calls += 1

    def enter(self, block: int) -> None:
        with self._lock:
            self._entered[block] += 1

    def reach(self, block: int) -> None:
        with self._lock:
            self._reached[block] += 1

    @property
    def nothing(self) -> bool:
        """Whether the model was called and none of the blocks was reached."""
        return self.calls > 0 and not any(self._reached.values())

    def missed(self, done: Done) -> list[str]:
        """A sentence on the blocks that were left out and one on those that were bypassed; none without a call."""
        if not self.calls:
            return []
        missed = [block for block, count in self._reached.items() if not count]
        bypassed = [block for block in missed if self._entered[block]]
        skipped = [block for block in missed if not self._entered[block]]
        instead = replace(self.site, blocks=tuple(bypassed), point="block").location
        causes = [
            (skipped, "the model leaves the block out or ignores patches there; use another block"),
            (
                bypassed,
                "the block ran without calling it, as with weights that run in a fused kernel; use the block's output "
                f"instead, {instead}",
            ),
        ]
        return [f"{self._never(blocks, done)}: {cause}." for blocks, cause in causes if blocks]

    def _never(self, blocks: Sequence[int], done: Done) -> str:
        place = replace(self.site, blocks=tuple(blocks))
        return f"{place} was never reached in this run, so nothing was {done} there"

    def check(self) -> None:
        """Raises ValueError when there is nothing to read because the place was never reached."""
        if self.nothing:
            raise ValueError(f"location: {self.missed('read')[0]}")


@dataclass(frozen=True)
class CountedTap:
    """A tap at one block of its site, counted."""

    tap: Tap
    reach: Reach
    block: int

    @property
    def site(self) -> Site:
        return self.tap.site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        self.tap.ready(batch, moment, device)

    def enter(self) -> None:
        """The block begins, whether it hands its tokens over or not."""
        self.reach.enter(self.block)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        self.reach.reach(self.block)
        return self.tap(x, moment, activation)

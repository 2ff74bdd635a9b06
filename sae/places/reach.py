"""Whether a run reached its places: a model may leave blocks out, and a fused kernel bypasses a module's hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .moment import EVERY_SIGMA, Moment, SigmaWindow
from .site import Site
from .stream_taps import Tap

Done = Literal["steered", "read"]


class Skips(NamedTuple):
    """Steps that the model was not run in, of those that were asked for."""

    steps: int
    asked: int


class Reach:
    """Counts of one run at one site, block by block. Plain numbers; safe across threads.

    `window` is where the steps matter, `skippers` names what may leave some out.
    """

    def __init__(self, site: Site, window: SigmaWindow = EVERY_SIGMA, skippers: Sequence[str] = ()) -> None:
        self.site, self.window, self.skippers = site, window, skippers
        self.calls = 0  # of the model, from beginning to end
        self._asked: set[float] = set()  # noise levels that the sampler asked for
        self._entered: dict[int, set[float]] = {block: set() for block in site.blocks}  # those at which a block ran
        self._reached = dict.fromkeys(site.blocks, 0)  # how often its tap got tokens
        self._compiled: set[int] = set()
        self._lock = Lock()

    def ask(self, sigma: float) -> None:
        """The sampler asks for a step."""
        if sigma in self.window:
            with self._lock:
                self._asked.add(sigma)

    def call(self) -> None:
        """The model was called and came to its end."""
        with self._lock:
            self.calls += 1

    def enter(self, block: int, sigma: float) -> None:
        with self._lock:
            self._entered[block].add(sigma)

    def reach(self, block: int) -> None:
        with self._lock:
            self._reached[block] += 1

    @property
    def nothing(self) -> bool:
        """Whether the model was called and none of the blocks was reached."""
        return self.calls > 0 and not any(self._reached.values())

    def compiled(self, block: int) -> None:
        """The block was compiled by itself, so that a place inside is out of reach but where it runs as written."""
        with self._lock:
            self._compiled.add(block)

    @property
    def slowed(self) -> list[str]:
        """A sentence on the blocks that are compiled by themselves."""
        if not self._compiled:
            return []
        place = replace(self.site, blocks=tuple(sorted(self._compiled)))
        return [
            f"{place} lies inside blocks that another node compiled one by one, where steering cannot reach, so these "
            "run uncompiled while they are steered; compile the whole model, or use the blocks' outputs, "
            f"{replace(place, point='block').location}."
        ]

    @property
    def skips(self) -> Skips:
        """The steps that were asked for in which a block did not run that ran in others."""
        ran = [sigmas for sigmas in self._entered.values() if sigmas]
        return Skips(sum(any(sigma not in sigmas for sigmas in ran) for sigma in self._asked), len(self._asked))

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


def skipped(reaches: Sequence[Reach], done: Done) -> list[str]:
    """A sentence on the steps of a run that left out one of the places, if there were any."""
    if not reaches:
        return []
    most = max(reaches, key=lambda reach: reach.skips)
    steps, asked = most.skips
    if not steps:
        return []
    what = "step was" if steps == 1 else "steps were"
    names = f" ({', '.join(most.skippers)})" if most.skippers else ""
    return [
        f"{steps} of {asked} {what} skipped, so nothing was {done} there: another node{names} took the model's result "
        "from an earlier step; switch it off, or lower its threshold."
    ]


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

    def enter(self, sigma: float) -> None:
        """The block begins, whether it hands its tokens over or not."""
        self.reach.enter(self.block, sigma)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        self.reach.reach(self.block)
        return self.tap(x, moment, activation)

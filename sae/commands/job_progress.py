"""What somebody who waits for a long training is told: what it takes, how far it is, and the curve."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import torch

from ..drawing.charts import curve
from ..places.moment import OnProgress
from ..training.run import RunProgress

SHOWN_EVERY = 1.0  # seconds
POINTS = 300  # of the curve
PREVIEW_SIDE = 640


@dataclass(frozen=True)
class Host:
    """Where a training runs: who is told, who may cancel it, and where there is room."""

    tell: Callable[[str], None]  # a line
    on_progress: OnProgress  # seconds that are done, of how many, and a preview of the curve or None
    check: Callable[[], None]  # raises where Cancel was pressed
    make_room: Callable[[int], tuple[torch.device, int]]  # for so many bytes: the device, and how many are free there

    def encoded(self, done: int, total: int) -> None:
        """Pictures or texts, before a training on their embeddings."""
        self.check()
        self.on_progress(done, total, None)
        if done == 0:
            self.tell(f"Encoding {total:,}.")


class Waiting:
    """Collecting comes first, where there is something to collect, then training."""

    def __init__(self, host: Host, collecting: float, training: float = 0.0) -> None:
        """In seconds, as they were measured beforehand."""
        self.host, self.collecting, self.training = host, collecting, training
        self._points: list[tuple[int, float]] = []
        self._shown = 0.0

    @property
    def minutes(self) -> int:
        return max(1, round((self.collecting + self.training) / 60))

    def collected(self, tokens: int, wanted: int) -> None:
        self.host.check()
        self._bar(min(1.0, tokens / wanted) * self.collecting)
        if self._due():
            self.host.tell(f"Collected {tokens:,} of {wanted:,} tokens.")

    def trained(self, progress: RunProgress) -> None:
        """Of one site."""
        self.host.check()
        [site] = progress.sites.values()
        self._points.append((progress.step, site.explained_variance))
        seconds = self.collecting + progress.step / progress.steps * self.training
        if not self._due():
            self._bar(seconds)
            return
        told = f"explained variance {site.explained_variance:.3f}, dead {site.dead_share:.1%}"
        steps, explained = zip(*self._points[:: max(1, len(self._points) // POINTS)], strict=True)
        self._bar(seconds, ("JPEG", curve(steps, explained, told), PREVIEW_SIDE))
        self.host.tell(f"Step {progress.step:,} of {progress.steps:,}: loss {1 - site.explained_variance:.4f}, {told}.")

    def _bar(self, seconds: float, preview: object = None) -> None:
        self.host.on_progress(seconds, max(1, round(self.collecting + self.training)), preview)

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._shown < SHOWN_EVERY:
            return False
        self._shown = now
        return True


class Stoppable(Protocol):
    stopping: bool  # set, it ends after the step under way


@contextmanager
def stopped_by_signals(training: Stoppable) -> Iterator[None]:
    """The first Ctrl-C, or the system's end, waits for the step under way; the second Ctrl-C does not."""

    def stop(number: int, frame: FrameType | None) -> None:
        if training.stopping:
            raise KeyboardInterrupt
        training.stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

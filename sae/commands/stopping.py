"""How a training that runs in the foreground is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


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

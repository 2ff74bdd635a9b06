"""How far a run of a model has come, and a series of runs. Whoever is told may raise, which cancels the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The last argument is what a host can show of the run under way, such as a preview, or None.
OnStep = Callable[[float, Any], None]  # the share of the run that is done, after each step
OnProgress = Callable[[float, int, Any], None]  # runs that are done, and of how many


def unheard(*told: Any) -> None:
    """Nobody is told."""


def steps_of(on_progress: OnProgress, done: int, total: int, runs: int = 1) -> OnStep:
    """What to tell of the next `runs`, drawn as one batch, where `done` of `total` are behind."""

    def on_step(share: float, preview: Any = None) -> None:
        on_progress(done + share * runs, total, preview)

    return on_step

"""Staying out of core's record of the memory that a block takes.

From 0.34 on ComfyUI records, for some families, what is allocated while a block runs, and ends the process where such
a tensor outlives the block. What is allocated under its `pause_malloc_graph` is left out. Older versions have neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

RECORDER = "comfy.model_prefetch"  # where it records, core has loaded this; not imported here, for it may not import


def unrecorded() -> AbstractContextManager[Any]:
    """Inside of it, tensors may be allocated that outlive the block under way."""
    pause = getattr(sys.modules.get(RECORDER), "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()


def without_record(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called with core's record paused."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with unrecorded():
            return function(*args, **kwargs)

    return call

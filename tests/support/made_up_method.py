"""Puts a made-up method's file beside those of the pack, for as long as a test runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

NAME = "echo"
FOLDER = Path(__file__).parent / "made_up_methods"


@contextmanager
def made_up_method(methods: ModuleType) -> Iterator[str]:
    """`methods` is the pack's package of that name; the method's name."""
    own, known = list(methods.__path__), dict(methods.METHODS)
    methods.__path__.append(str(FOLDER))
    try:
        methods.METHODS.update(methods.collected())
        yield NAME
    finally:
        methods.__path__[:] = own
        methods.METHODS.clear()
        methods.METHODS.update(known)
        sys.modules.pop(f"{methods.__name__}.{NAME}", None)
        vars(methods).pop(NAME, None)

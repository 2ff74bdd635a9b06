"""The commands of `python -m sae`: a module, or a Command where a module has two."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One word of the command line, as a module of this folder has it."""

    HELP: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]

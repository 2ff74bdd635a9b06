"""Checkpoints of training: written whole or not at all, read without running anything."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..files.whole import replacing


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces a checkpoint in one go; UnwritableError where the system does not let us, and the old one stays."""
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # what torch makes of a write that fails
            raise OSError(errno.EIO, "the disk may be full") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint; ValueError where the file is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(f"{path.name}: this checkpoint cannot be read; remove it to begin anew.") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path.name}: this is no checkpoint of training; remove it to begin anew.")
    return state

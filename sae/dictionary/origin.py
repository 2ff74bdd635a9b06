"""Where an SAE came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The checkpoint that an SAE was read from."""

    layout: str  # as people call it, such as "SAELens topk"
    files: tuple[Path, ...]  # weight files, shards in order
    config: Mapping[str, Any] = field(default_factory=dict)  # as it stands beside or inside the file
    hook: str | None = None  # the place in the network that the config names, in its own words

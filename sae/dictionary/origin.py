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
    within: tuple[Path, ...] = ()  # the folders outside which nothing may be read; none: anywhere
    notes: tuple[str, ...] = ()  # what is to be told of how it was read, a sentence each


@dataclass(frozen=True)
class TrainedOn:
    """The model that an SAE or a set of directions was made on."""

    family: str  # a name of `places/families.py`
    model: str = ""  # as its makers call it, such as FLUX.1-schnell
    identity: str = ""  # of the network, as hosts tell it; empty where it was not kept


@dataclass(frozen=True)
class ContrastOf:
    """What a dictionary of contrast directions was made of, and how clearly its two sides differed."""

    positive: tuple[str, ...]  # prompts, or words for what else was shown; empty where nothing tells
    negative: tuple[str, ...]
    runs: int  # of each side
    norm: float  # length of the difference
    floor: float | None  # the length that chance gives; None where each side had one run

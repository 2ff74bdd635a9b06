"""Whose a feature is: a dictionary by its content, told in a few kilobytes; and where it came from.

Beside the SHA-256 of `fingerprint.py`, which recipes, labels and the Hub use and which reads the whole file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.quote import quoted, shown
from .weights import Weights

PIECES, LENGTH = 8, 64  # runs of entries that are looked at in each tensor, and entries of a run
DIGITS = 32
_KEPT = "identity"  # under this name in the weights' handles


@dataclass(frozen=True)
class Owner:
    """The dictionary that features and their numbers belong to. Equal where the content is; `name` is for people."""

    identity: str
    name: str = field(compare=False)

    def __post_init__(self) -> None:
        if not is_identity(self.identity):
            raise ValueError(f"owner: {quoted(self.identity, 40)} is none; {DIGITS} hexadecimal digits are needed.")

    def __str__(self) -> str:
        return f"{shown(self.name)} ({self.identity[:8]})"

    def check(self, other: Owner | None, what: str) -> None:
        """Raises ValueError where `what` (the start of the sentence) belongs to another dictionary than this one."""
        if other is not None and other != self:
            raise ValueError(f"{what} to {other}, but the SAE connected is {self}; use the one they belong to.")


def is_identity(text: object) -> bool:
    return isinstance(text, str) and len(text) == DIGITS and not set(text) - set("0123456789abcdef")


def identity(weights: Weights, kept: bool) -> str:
    """32 hexadecimal digits from names, shapes, types and a few entries of each tensor, evenly spread.

    With `kept` it is read once: for weights that cannot change, such as a file's.
    """
    if kept and _KEPT in weights.handles:
        return str(weights.handles[_KEPT])
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for name, weight in sorted(weights.tensors.items()):
        source, key = weight.source, weight.key
        digest.update(f"{name} {list(source.infos[key].shape)} {source.infos[key].dtype}".encode())
        digest.update(source.sample(key, PIECES, LENGTH))
    found = digest.hexdigest()
    if kept:
        weights.handles[_KEPT] = found
    return found


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

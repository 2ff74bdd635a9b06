"""Where labels live: one file for each SAE's fingerprint in a folder of the user's, over those shipped with the SAE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dictionary.autoencoder import SparseAutoencoder
from ..files.quote import quoted, shown
from ..files.small_json import UnreadableError, update_json
from ..formats.named_tensors import AllowedFolders
from .labelling import merge
from .labels import SUFFIX, Label, Labels, labels_content, read_labels

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShippedFile:
    """Labels that came with an SAE. Its folder may be somebody else's, so links are followed only so far."""

    path: Path
    allowed: AllowedFolders = field(default_factory=AllowedFolders)

    def read(self, fingerprint: str) -> Labels:
        """None are there without a file; ValueError when it is broken, of another SAE, or a link that leads out."""
        self.allowed.check(self.path, shown(self.path.name))
        return read_if_there(self.path, fingerprint)


def read_if_there(path: Path, fingerprint: str) -> Labels:
    """As `read_labels`; no labels where there is no file."""
    try:
        there = path.is_file()
    except OSError as error:
        raise UnreadableError(f"{shown(path.name)}: this label file cannot be read ({error.strerror}).") from error
    return read_labels(path, fingerprint) if there else {}


@dataclass
class LabelStore:
    """Reads and writes labels below `folder`; what went wrong while reading is kept in `warnings`."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    def path(self, fingerprint: str) -> Path:
        """The user's file; ValueError for what is no fingerprint, such as a path."""
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"fingerprint: {quoted(fingerprint, 80)} is none; 64 hexadecimal digits are needed.")
        return self.folder / f"{fingerprint}.json"

    def labels(self, fingerprint: str, shipped: ShippedFile | None = None) -> Labels:
        """The user's labels over those of the `shipped` file. Names are a help: what is broken is told, and names
        nothing."""
        theirs = {} if shipped is None else self._read(lambda: shipped.read(fingerprint))
        return theirs | self._read(lambda: read_if_there(self.path(fingerprint), fingerprint))

    def _read(self, read: Callable[[], Labels]) -> Labels:
        try:
            return read()
        except ValueError as error:
            self.warnings.append(str(error))
            return {}

    def update(self, fingerprint: str, changes: Mapping[int, Label | None]) -> Labels:
        """Sets labels of the user's file, and removes those that are None; returns what it holds now.

        A broken file is renamed, not overwritten.
        """
        return self._change(fingerprint, lambda known: changes)

    def add(self, fingerprint: str, found: Labels, shipped: ShippedFile | None = None) -> Labels:
        """Writes what a tool found, but never over a name that somebody gave; returns what it wrote."""
        from_sae = {} if shipped is None else self._read(lambda: shipped.read(fingerprint))
        written: Labels = {}

        def changes(known: Labels) -> Labels:
            written.update(merge(from_sae | known, found))
            return written

        self._change(fingerprint, changes)
        return written

    def _change(self, fingerprint: str, changes: Callable[[Labels], Mapping[int, Label | None]]) -> Labels:
        """`changes` are asked of what the file holds while nobody else can change it."""
        labels: Labels = {}

        def changed(known: Labels | None) -> dict[str, Any]:
            labels.update(known or {})
            for index, label in changes(labels).items():
                if label is None:
                    labels.pop(index, None)
                else:
                    labels[index] = label
            return labels_content(labels, fingerprint)

        path = self.path(fingerprint)
        told = update_json(path, lambda file: read_labels(file, fingerprint), changed)
        self.warnings += [told] if told else []
        return labels


def shipped_labels(sae: SparseAutoencoder) -> ShippedFile | None:
    """The label file beside an SAE's weights, whether it is there or not; None for an SAE that was made in memory."""
    if sae.origin is None:
        return None
    weights = sae.origin.files[0]
    return ShippedFile(weights.with_name(weights.stem + SUFFIX), AllowedFolders(sae.origin.within))

"""Where labels live: one file for each SAE's fingerprint in a folder of the user's, over those shipped with the SAE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dictionary.autoencoder import SparseAutoencoder
from ..files.small_json import update_json
from .labelling import merge
from .labels import SUFFIX, Label, Labels, labels_content, read_labels

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass
class LabelStore:
    """Reads and writes labels below `folder`; what went wrong while reading is kept in `warnings`."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    def path(self, fingerprint: str) -> Path:
        """The user's file; ValueError for what is no fingerprint, such as a path."""
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"fingerprint: {fingerprint[:80]!r} is none; 64 hexadecimal digits are needed.")
        return self.folder / f"{fingerprint}.json"

    def labels(self, fingerprint: str, shipped: Path | None = None) -> Labels:
        """The user's labels over those of the `shipped` file."""
        return self._read(shipped, fingerprint) | self._read(self.path(fingerprint), fingerprint)

    def _read(self, file: Path | None, fingerprint: str) -> Labels:
        if file is None or not file.is_file():
            return {}
        try:
            return read_labels(file, fingerprint)
        except ValueError as error:
            self.warnings.append(str(error))
            return {}

    def update(self, fingerprint: str, changes: Mapping[int, Label | None]) -> Labels:
        """Sets labels of the user's file, and removes those that are None; returns what it holds now.

        A broken file is renamed, not overwritten.
        """
        return self._change(fingerprint, lambda known: changes)

    def add(self, fingerprint: str, found: Labels, shipped: Path | None = None) -> Labels:
        """Writes what a tool found, but never over a name that somebody gave; returns what it wrote."""
        from_sae = self._read(shipped, fingerprint)
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


def shipped_labels(sae: SparseAutoencoder) -> Path | None:
    """The label file beside an SAE's weights, whether it is there or not; None for an SAE that was made in memory."""
    if sae.origin is None:
        return None
    weights = sae.origin.files[0]
    return weights.with_name(weights.stem + SUFFIX)

"""Where labels live: one file for each SAE's fingerprint in a folder of the user's, over those shipped with the SAE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..dictionary.autoencoder import SparseAutoencoder
from ..files.small_json import set_aside
from .labels import SUFFIX, Label, Labels, read_labels, write_labels

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
        found: Labels = {}
        for file in (shipped, self.path(fingerprint)):
            if file is not None and file.is_file():
                try:
                    found |= read_labels(file, fingerprint)
                except ValueError as error:
                    self.warnings.append(str(error))
        return found

    def update(self, fingerprint: str, changes: Mapping[int, Label | None]) -> Labels:
        """Sets labels of the user's file, and removes those that are None; returns what it holds now.

        A broken file is renamed, not overwritten.
        """
        path = self.path(fingerprint)
        labels: Labels = {}
        if path.is_file():
            try:
                labels = read_labels(path, fingerprint)
            except ValueError as error:
                self.warnings.append(f"{error} It was set aside as {set_aside(path).name}.")
        for index, label in changes.items():
            if label is None:
                labels.pop(index, None)
            else:
                labels[index] = label
        write_labels(path, labels, fingerprint)
        return labels


def shipped_labels(sae: SparseAutoencoder) -> Path | None:
    """The label file beside an SAE's weights, whether it is there or not; None for an SAE that was made in memory."""
    if sae.origin is None:
        return None
    weights = sae.origin.files[0]
    return weights.with_name(weights.stem + SUFFIX)

"""What features are called: labels in ComfyUI's user folder, and those that come with an SAE."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import folder_paths

from ...sae.dictionary.fingerprint import Progress, fingerprint
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.known.labels import Label, Labels, LabelStore, contrast_labels, shipped_labels
from ...sae.known.ranges import SUFFIX

log = logging.getLogger(__name__)


def label_store() -> LabelStore:
    """The store in the default user's folder."""
    return LabelStore(Path(folder_paths.get_user_directory()) / "default" / "sae_steering" / "labels")


def calibration_path(fingerprint_of_sae: str) -> Path:
    """Where the ranges of an SAE's features are kept, beside its labels."""
    labels = label_store().path(fingerprint_of_sae)
    return labels.with_name(labels.stem + SUFFIX)


def labels_of(sae: AnySae, progress: Progress | None = None) -> Labels:
    """The user's labels over those that come with the SAE, of a set its members'. A broken file is told in the log."""
    store = label_store()
    labels = read_labels(store, sae, progress)
    for warning in store.warnings:
        log.warning("%s", warning)
    return labels


def read_labels(store: LabelStore, sae: AnySae, progress: Progress | None = None) -> Labels:
    """As `labels_of`; what went wrong is left in the store's warnings."""
    if not isinstance(sae, SaeSet):
        return contrast_labels(sae) | store.labels(fingerprint(sae, progress), shipped_labels(sae))
    found: Labels = {}
    for member in sae.members:
        own = read_labels(store, member.sae, progress)
        found |= {member.first + k: label for k, label in own.items() if member.first + k in member}
    return found


def update_labels(store: LabelStore, sae: SaeSet, changes: Mapping[int, Label | None]) -> Labels:
    """Sets or removes labels of the features of a set, in its members' files; what these hold now."""
    found: Labels = {}
    for member in sae.members:
        own = {feature - member.first: label for feature, label in changes.items() if feature in member}
        if own:
            kept = store.update(fingerprint(member.sae), own)
            found |= {member.first + k: label for k, label in kept.items()}
    return found


def names_of(sae: AnySae, progress: Progress | None = None) -> dict[int, str]:
    """Index -> name."""
    return {index: label.name for index, label in labels_of(sae, progress).items()}

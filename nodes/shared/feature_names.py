"""What features are called: labels in ComfyUI's user folder, and those that come with an SAE."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import Progress, fingerprint
from ...sae.naming.label_store import LabelStore, shipped_labels
from ...sae.naming.labels import Labels
from ...sae.steering.calibration_file import SUFFIX

log = logging.getLogger(__name__)


def label_store() -> LabelStore:
    """The store in the default user's folder."""
    return LabelStore(Path(folder_paths.get_user_directory()) / "default" / "sae_steering" / "labels")


def calibration_path(fingerprint_of_sae: str) -> Path:
    """Where the ranges of an SAE's features are kept, beside its labels."""
    labels = label_store().path(fingerprint_of_sae)
    return labels.with_name(labels.stem + SUFFIX)


def labels_of(sae: SparseAutoencoder, progress: Progress | None = None) -> Labels:
    """The user's labels over those that come with the SAE. A broken file is told in the log, and names nothing."""
    store = label_store()
    labels = store.labels(fingerprint(sae, progress), shipped_labels(sae))
    for warning in store.warnings:
        log.warning("%s", warning)
    return labels


def names_of(sae: SparseAutoencoder, progress: Progress | None = None) -> dict[int, str]:
    """Index -> name."""
    return {index: label.name for index, label in labels_of(sae, progress).items()}

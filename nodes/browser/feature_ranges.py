"""Ranges of features: those that are stored and fit, and warnings of those that were measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import SET, fingerprint
from ...sae.hosts.comfyui.identity import identity_of
from ...sae.hosts.comfyui.model import Model
from ...sae.known.ranges import Calibrations, Measured, Setting, fitting, misfits, read_calibrations, setting_of
from ...sae.places.site import Site
from ...sae.steering.delta import Steering
from ...sae.steering.edits import Edit, Method
from .feature_names import calibration_path, log
from .sae_sources import Use, note_use

FIRST: Method = "add"  # where it is not known what a graph steers with


def stored(mark: str) -> list[Measured]:
    """The stored ranges of an SAE; a broken file is told in the log, and gives none. Sets have none of their own."""
    if mark.startswith(SET):
        return []
    path = calibration_path(mark)
    if not path.is_file():
        return []
    try:
        return read_calibrations(path, mark)
    except ValueError as error:
        log.warning("%s", error)
        return []


def offered(
    mark: str, setting: Setting, first: Method = FIRST, only: Sequence[int] | None = None
) -> tuple[Calibrations, list[str]]:
    """The ranges that fit, of the method `first` before others, and what to tell of them; `only` those features."""
    known = [measured for measured in stored(mark) if only is None or measured.feature in only]
    found, told = fitting(known, setting)
    return {method: found[method] for method in sorted(found, key=lambda method: method != first)}, told


def setting_here(model: Model, site: Site, replaces: Sequence[Edit] | None = None) -> Setting:
    """As `setting_of`, for a MODEL."""
    return setting_of(site, identity_of(model), replaces)


def ranges_in_use(model: Model, steering: Steering, site: Site) -> list[str]:
    """Notes what a graph steers with, for the panels; warnings of its ranges that were measured elsewhere."""
    if not isinstance(steering.sae, SparseAutoencoder):  # ranges are kept for SAEs
        return []
    setting = setting_here(model, site, steering.replaces)
    note_use(steering.sae, Use(steering.method, setting))
    calibrated = [edit for edit, unit in zip(steering.edits, steering.units, strict=True) if unit == "calibrated"]
    return misfits(stored(fingerprint(steering.sae)), calibrated, setting) if calibrated else []

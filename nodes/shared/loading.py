"""Loading an SAE or a set from models/sae with what was measured of it: for LoadSAE and for the routes."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae
from ...sae.dictionary.statistics import SUFFIX
from ...sae.formats import load, with_statistics
from ...sae.formats.sets import MARK, make_set
from ...sae.places.site import parse_location, resolve_site
from .model_folder import KIND, measured_statistics, sae_folders, sae_path, set_members, set_names

log = logging.getLogger(__name__)


def state_of(sae_name: str) -> tuple[tuple[str, int], ...]:
    """Names and times of the files of the SAE's folder: weights, shards, config, statistics; of a set all members'."""
    if sae_name.endswith(MARK):
        return tuple(state for name in set_names().get(sae_name, ()) for state in state_of(name))
    path = folder_paths.get_full_path(KIND, sae_name)
    if path is None:
        return ()
    beside = [file for file in Path(path).parent.iterdir() if file.is_file()]
    measured = measured_statistics(_name_of(sae_name))
    named = measured.name.removesuffix(SUFFIX)
    known = [file for file in measured.parent.glob(f"*{SUFFIX}") if file.name.startswith(named)]
    files = sorted([*beside, *known])
    return tuple((file.name, file.stat().st_mtime_ns) for file in files)


def _name_of(sae_name: str) -> str:
    return str(Path(sae_name).with_suffix(""))


def load_named(sae_name: str, location: str, stream: str, architecture: str) -> AnySae:
    """A listed SAE at a place, or a listed set; of a set location and stream choose members."""
    if sae_name.endswith(MARK):
        saes = [_load_file(name, architecture) for name in set_members(sae_name)]
        return make_set(saes, sae_name.removesuffix(MARK)).at(location, stream)
    sae = _load_file(sae_name, architecture)
    if location.strip() not in ("", "auto"):
        return sae.at(parse_location(location, stream))
    if stream == "auto" or sae.site is None:
        return sae
    return sae.at(resolve_site("auto", stream, sae.site))


def _load_file(sae_name: str, architecture: str) -> SparseAutoencoder:
    sae = load(sae_path(sae_name), name=_name_of(sae_name), architecture=architecture, within=sae_folders())
    return sae if sae.statistics is not None else _with_measured_statistics(sae)


def _with_measured_statistics(sae: SparseAutoencoder) -> SparseAutoencoder:
    """What TopActivatingFeatures measured on this very SAE; else what version 0.1 measured on one of its name."""
    measured, old = measured_statistics(sae.name, sae.owner), measured_statistics(sae.name)
    if measured.is_file():
        return with_statistics(sae, measured)
    if not old.is_file():
        return sae
    log.warning(
        "LoadSAE: %s does not say on which weights it was measured; if %s was trained anew since, measure again with "
        "TopActivatingFeatures.", old.name, sae.name,
    )  # fmt: skip
    return with_statistics(sae, old)

"""ComfyUI's model folders for SAEs: models/sae and output/sae, with what extra_model_paths.yaml adds to them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import folder_paths

from ...dictionary.autoencoder import SparseAutoencoder
from ...dictionary.sae_set import AnySae
from ...files.quote import quoted, shown
from ...formats import load, with_statistics
from ...formats.named_tensors import BESIDE, SUFFIXES
from ...formats.sets import MARK, make_set, set_folders
from ...places.site import parse_location, resolve_site
from .own_folders import KIND, notebooks, output_folder

log = logging.getLogger(__name__)

_LATER_SHARD = re.compile(r".*-(?!00001)\d{5}-of-\d{5}\.[a-z]+")


def register() -> None:
    """Adds models/sae, output/sae and the accepted file types to what other packs and extra_model_paths.yaml set up.

    What the pack wrote is listed at once, as core does it with output/checkpoints and its like.
    """
    folders, extensions = folder_paths.folder_names_and_paths.get(KIND, ([], set()))
    for own in (str(Path(folder_paths.models_dir) / KIND), str(output_folder())):
        if own not in folders:
            folders.append(own)
    # A kind that the yaml file made has no file types yet, and would list every file.
    folder_paths.folder_names_and_paths[KIND] = (folders, {*extensions, *SUFFIXES})


def sae_folders() -> list[Path]:
    """The folders that SAEs may lie in, links resolved."""
    return [Path(folder).resolve() for folder in folder_paths.get_folder_paths(KIND)]


def sae_names() -> list[str]:
    """Weight files as paths inside the model folders, sub-folders included; of a split one the first shard."""
    return [name for name in folder_paths.get_filename_list(KIND) if _is_weight_file(Path(name).name)]


def set_names() -> dict[str, list[str]]:
    """Sets of SAEs as they are listed, such as `shapes-attention/*`, with the weight files of their folder."""
    return {folder + MARK: names for folder, names in set_folders(sae_names()).items()}


def set_members(name: str) -> list[str]:
    """The weight files of a listed set; ValueError for any other name."""
    known = set_names()
    if name not in known:
        listed = ", ".join(list(known)[:5]) or "none, for no folder holds two SAEs whose names tell different places"
        raise ValueError(f"sae_name: {name!r} is not among the sets in models/sae; there are {listed}.")
    return known[name]


def _is_weight_file(name: str) -> bool:
    return not BESIDE.fullmatch(name) and not _LATER_SHARD.fullmatch(name)


def sae_path(name: str) -> Path:
    """Where a listed weight file lies. ValueError for any other name, and for a file that has gone since."""
    if name not in sae_names():
        raise ValueError(f"sae_name: {quoted(name)} is not among the files in models/sae; choose {_accepted()}.")
    try:
        return Path(folder_paths.get_full_path_or_raise(KIND, name))
    except FileNotFoundError as error:
        raise ValueError(
            f"sae_name: {quoted(name)} is no longer in models/sae; put it back or choose another."
        ) from error


def _accepted() -> str:
    names = sae_names()
    if not names:
        return f"one after putting a weight file ({', '.join(SUFFIXES)}) there"
    return f"one of {', '.join(shown(name, 60) for name in names[:5])}{' …' if len(names) > 5 else ''}"


def state_of(sae_name: str) -> tuple[tuple[str, int], ...]:
    """Names and times of the files of the SAE's folder: weights, shards, config, statistics; of a set all members'."""
    if sae_name.endswith(MARK):
        return tuple(state for name in set_names().get(sae_name, ()) for state in state_of(name))
    path = folder_paths.get_full_path(KIND, sae_name)
    if path is None:
        return ()
    beside = [file for file in Path(path).parent.iterdir() if file.is_file()]
    files = sorted([*beside, *notebooks().statistics_files(_name_of(sae_name))])
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
    for note in sae.origin.notes if sae.origin else ():
        log.warning("LoadSAE: %s: %s", shown(sae_name), note)
    measured = None if sae.statistics is not None else notebooks().of(sae).measured_statistics
    return sae if measured is None else with_statistics(sae, measured)

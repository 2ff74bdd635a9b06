"""ComfyUI's model folders for SAEs: models/sae and output/sae, with what extra_model_paths.yaml adds to them."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ...sae.dictionary.owner import Owner
from ...sae.dictionary.statistics import statistics_path
from ...sae.files.quote import quoted, shown
from ...sae.formats.named_tensors import BESIDE, SUFFIXES
from ...sae.formats.sets import MARK, set_folders

KIND = "sae"
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


def output_folder() -> Path:
    """Where the pack writes: output/sae."""
    return Path(folder_paths.get_output_directory()) / KIND


def measured_statistics(name: str, owner: Owner | None = None) -> Path:
    """Where TopActivatingFeatures writes the statistics of the SAE `name`, which has no suffix, and of this content.

    Without an owner, where version 0.1 wrote them.
    Raises ValueError for a name that leads out of output/sae.
    """
    folder = output_folder().resolve()
    mark = "" if owner is None else f"-{owner.identity[:8]}"
    path = statistics_path(Path(f"{folder / name}{mark}.safetensors")).resolve()
    if not path.is_relative_to(folder) or "\0" in name:
        raise ValueError(
            f"sae: its name {quoted(name)} leads out of output/sae, so its statistics cannot be written there."
        )
    return path


def _accepted() -> str:
    names = sae_names()
    if not names:
        return f"one after putting a weight file ({', '.join(SUFFIXES)}) there"
    return f"one of {', '.join(shown(name, 60) for name in names[:5])}{' …' if len(names) > 5 else ''}"

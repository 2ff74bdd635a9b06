"""ComfyUI's model folder for SAEs: models/sae, together with what extra_model_paths.yaml adds to it."""

from __future__ import annotations

from pathlib import Path

import folder_paths

KIND = "sae"
EXTENSIONS = (".safetensors",)
STATISTICS_SUFFIX = ".stats.safetensors"  # feature statistics lie beside their SAE and are no SAE themselves


def register() -> None:
    """Adds models/sae and the accepted file types to what other packs and extra_model_paths.yaml have set up."""
    folders, extensions = folder_paths.folder_names_and_paths.get(KIND, ([], set()))
    own = str(Path(folder_paths.models_dir) / KIND)
    if own not in folders:
        folders.append(own)
    # A kind that the yaml file made has no file types yet, and would list every file.
    folder_paths.folder_names_and_paths[KIND] = (folders, {*extensions, *EXTENSIONS})


def sae_names() -> list[str]:
    """Weight files as paths inside the model folders, sub-folders included."""
    return [name for name in folder_paths.get_filename_list(KIND) if not name.endswith(STATISTICS_SUFFIX)]


def sae_path(name: str) -> Path:
    """Where a listed weight file lies. ValueError for any other name, and for a file that has gone since."""
    if name not in sae_names():
        raise ValueError(f"sae_name: {name!r} is not among the files in models/sae; choose {_accepted()}.")
    try:
        return Path(folder_paths.get_full_path_or_raise(KIND, name))
    except FileNotFoundError as error:
        raise ValueError(f"sae_name: {name!r} is no longer in models/sae; put it back or choose another.") from error


def _accepted() -> str:
    names = sae_names()
    if not names:
        return "one after putting a .safetensors file there"
    return f"one of {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"

"""The pack's own folders in ComfyUI: what users keep about features, and output/sae, where the pack writes."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...known.notebook import Notebooks

KIND = "sae"  # of ComfyUI's model folders


def notebooks() -> Notebooks:
    """What is known of features: in the default user's folder, and the statistics in output/sae."""
    return Notebooks(Path(folder_paths.get_user_directory()) / "default" / "sae_steering", output_folder())


def output_folder() -> Path:
    """Where the pack writes: output/sae."""
    return Path(folder_paths.get_output_directory()) / KIND


def named_folder(name: str, what: str, inside: Path | None = None) -> Path:
    """The folder inside output/sae, or another, that the input `what` names; ValueError for a name that leads out."""
    base = (inside or output_folder()).resolve()
    plain = bool(name.strip()) and not set(name) & set('\\:*?"<>|') and name.isprintable()
    folder = (base / name.strip()).resolve() if plain else base
    if folder == base or not folder.is_relative_to(base):
        where = f"{base.parent.name}/{base.name}"
        raise ValueError(f"{what}: {name!r} is not the name of a folder inside {where}; write one such as my-sae.")
    return folder

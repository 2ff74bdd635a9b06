"""ComfyUI's folder for diffusers models, models/diffusers: which models lie in it."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...sae.hosts.kandinsky import INDEX

KIND = "diffusers"
NONE = "none"
DEPTH = 3  # folders below models/diffusers that are looked into


def diffusers_names() -> list[str]:
    """Model folders as paths inside models/diffusers, as core's DiffusersLoader lists them."""
    return sorted({name for base in folder_paths.get_folder_paths(KIND) for name in _names_in(Path(base))})


def _names_in(base: Path) -> list[str]:
    found = []
    for folder, below, files in os.walk(base, followlinks=True):  # as core does; the depth ends any circle
        path = Path(folder).relative_to(base)
        if INDEX in files:
            found.append(path.as_posix())
        if INDEX in files or len(path.parts) >= DEPTH:
            below.clear()
    return found


def diffusers_path(name: str, what: str) -> Path:
    """Where a listed model lies. ValueError for any other name, and for one that has gone since."""
    if name not in diffusers_names():
        raise ValueError(
            f"{what}: {name!r} is not among the folders in models/diffusers; put a diffusers folder of Kandinsky 2.2 "
            f"there (with its {INDEX}) and choose it."
        )
    for base in folder_paths.get_folder_paths(KIND):
        if (Path(base) / name / INDEX).is_file():
            return Path(base) / name
    raise ValueError(f"{what}: {name!r} is no longer in models/diffusers; put it back or choose another.")

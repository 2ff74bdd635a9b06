"""Where nodes write dictionaries, and how they tell how far they are."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils

from ...sae.export import Progress
from .model_folder import output_folder


def named_folder(name: str, what: str, inside: Path | None = None) -> Path:
    """The folder inside output/sae, or another, that the input `what` names; ValueError for a name that leads out."""
    base = (inside or output_folder()).resolve()
    plain = bool(name.strip()) and not set(name) & set('\\:*?"<>|') and name.isprintable()
    folder = (base / name.strip()).resolve() if plain else base
    if folder == base or not folder.is_relative_to(base):
        where = f"{base.parent.name}/{base.name}"
        raise ValueError(f"{what}: {name!r} is not the name of a folder inside {where}; write one such as my-sae.")
    return folder


def writing_bar() -> Progress:
    """ComfyUI's bar, in bytes; it raises where Cancel was pressed."""
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar asks only now and then
        bar.update_absolute(done, max(total, 1))

    return tell

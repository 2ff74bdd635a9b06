"""Where files may lie that came from somewhere else: links are followed only so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .quote import shown


@dataclass(frozen=True)
class AllowedFolders:
    """Where files may lie; without folders, anywhere."""

    folders: Sequence[Path] = ()

    def check(self, path: Path, label: str) -> None:
        """Raises ValueError when the file's real place, links resolved, is outside all folders."""
        real = path.resolve()
        if self.folders and not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            raise ValueError(
                f"{label}: {shown(path.name)} is a link that leads out of the model folders; put the file itself "
                f"there, or "
                f"add its folder to extra_model_paths.yaml."
            )

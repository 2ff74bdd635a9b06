"""Finds the ComfyUI that the tests run against: COMFYUI_PATH and COMFYUI_PYTHON, or ~/ComfyUI with its own .venv."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ComfyInstall:
    """A ComfyUI checkout, and the Python that has its requirements."""

    root: Path
    python: Path

    def lacks(self, *modules: str) -> list[str]:
        """Which of these modules its Python does not have."""
        code = f"import importlib.util as u; print(*[m for m in {modules!r} if u.find_spec(m) is None])"
        result = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=True)
        return result.stdout.split()


def comfyui_root() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser().resolve()


def comfyui_python(root: Path) -> Path:
    given = os.environ.get("COMFYUI_PYTHON")
    if given:
        return Path(given).expanduser()
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_comfyui() -> ComfyInstall | str:
    """The installation, or one line that says what is missing."""
    root = comfyui_root()
    if not (root / "main.py").is_file():
        return f"needs ComfyUI: no main.py in {root}; set COMFYUI_PATH to run these tests"
    python = comfyui_python(root)
    if not python.is_file():
        return f"needs ComfyUI's Python: {python} does not exist; set COMFYUI_PYTHON to run these tests"
    return ComfyInstall(root, python)

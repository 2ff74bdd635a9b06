"""Other libraries that read and write SAEs, each run by the Python of an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from project_files import ROOT

TIMEOUT_SECONDS = 900


def library_python(name: str) -> Path:
    """Of .venv-NAME, or what NAME_PYTHON says."""
    given = os.environ.get(_variable(name))
    place = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return Path(given).expanduser() if given else ROOT / f".venv-{name}" / place


def skip_without(name: str) -> None:
    """Skips the whole module, with the line that helps."""
    if not library_python(name).is_file():
        wanted = f"no {library_python(name)}; run make {name}, or set {_variable(name)}"
        pytest.skip(wanted, allow_module_level=True)


def run_library(name: str, *arguments: str, folder: Path) -> str:
    """Runs the library's Python in a folder; what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [str(library_python(name)), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{name} failed:\n{result.stderr[-8000:]}", pytrace=False)
    return result.stdout


def _variable(name: str) -> str:
    return f"{name.upper().replace('-', '_')}_PYTHON"

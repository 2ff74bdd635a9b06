"""Running a function of this package in ComfyUI's own Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_in_comfyui(module: str, call: str, cpu: bool) -> bool:
    """`call` of lab.bench's `module`, in a process of its own. False where COMFYUI_PATH names no ComfyUI.

    Its Python is that in .venv there, or what COMFYUI_PYTHON says.
    """
    comfyui = Path(os.environ.get("COMFYUI_PATH", "")).expanduser().resolve()
    own = comfyui / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = Path(os.environ.get("COMFYUI_PYTHON", own)).expanduser()
    if not python.is_file() or not (comfyui / "main.py").is_file():
        return False
    # ComfyUI first: the project's `nodes` must not stand in front of its own
    code = f"import sys; sys.path[:] = [{str(comfyui)!r}, *sys.path[1:], {str(ROOT)!r}]; " + (
        f"import comfy.cli_args; comfy.cli_args.args.cpu = {cpu}; from lab.bench import {module}; {module}.{call}"
    )
    subprocess.run([str(python), "-c", code], cwd=ROOT, check=True)
    return True

"""Runs the tests of inside/ in the Python that has ComfyUI's modules, and reports them as one."""

import os
import subprocess
from pathlib import Path

import pytest

from conftest_keys import INSIDE_SUMMARY

INSIDE = Path(__file__).parent / "inside"
TIMEOUT_SECONDS = 600


def test_everything_inside_comfyui(comfyui, request, tmp_path):
    missing = comfyui.lacks("pytest", "diffusers")
    if missing:
        pytest.skip(
            f"needs {' and '.join(missing)} in ComfyUI's Python: {comfyui.python} -m pip install {' '.join(missing)}"
        )
    command = [str(comfyui.python), "-m", "pytest", str(INSIDE), "-q", "--color=no", "--tb=short"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui.root), "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
    )
    lines = result.stdout.strip().splitlines()
    request.config.stash[INSIDE_SUMMARY] = lines[-1] if lines else "no output"
    if result.returncode:
        pytest.fail(f"{result.stdout[-12000:]}\n{result.stderr[-4000:]}", pytrace=False)

"""Runs the tests of inside/ in the Python that has ComfyUI's modules, and reports them as one."""

import os
import subprocess
from pathlib import Path

import pytest

from conftest_keys import INSIDE_SUMMARY

INSIDE = Path(__file__).parent / "inside"
TIMEOUT_SECONDS = 1200


def test_everything_inside_comfyui(comfyui, request, tmp_path):
    missing = comfyui.lacks("pytest", "diffusers")
    if missing:
        pytest.skip(
            f"needs {' and '.join(missing)} in ComfyUI's Python: {comfyui.python} -m pip install {' '.join(missing)}"
        )
    command = [str(comfyui.python), "-m", "pytest", str(INSIDE), "-q", "--color=no", "--tb=short"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui.root), "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    try:
        output = process.communicate(timeout=TIMEOUT_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"not done after {TIMEOUT_SECONDS} s:\n{process.communicate()[0][-12000:]}", pytrace=False)
    lines = output.strip().splitlines()
    request.config.stash[INSIDE_SUMMARY] = lines[-1] if lines else "no output"
    if process.returncode:
        pytest.fail(output[-16000:], pytrace=False)

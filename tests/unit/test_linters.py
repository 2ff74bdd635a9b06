"""ruff and mypy over the tree."""

import subprocess
import sys

import pytest

from project_files import ROOT
from typecheck import typecheck


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "."]
    result = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_types():
    result = typecheck()
    assert result.returncode == 0, result.stdout + result.stderr

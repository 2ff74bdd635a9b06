"""Runs mypy over the pack: `python tests/support/typecheck.py`.

mypy names a package by its folder, and the pack's folder may have any name: it looks at a copy with a fixed one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pack_loader import PACK_NAME
from project_files import ROOT, pack_files, relative


def typecheck() -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        for path in pack_files():
            copy = Path(folder, PACK_NAME, relative(path))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", os.devnull, "-p", PACK_NAME]  # a cache overlooks modules that have come since
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    result = typecheck()
    sys.stdout.write(result.stdout + result.stderr)
    sys.exit(result.returncode)

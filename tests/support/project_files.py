"""Where the project's files are, for the tests that read them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".ini", ".json", ".js", ".css", ".svg", ".yaml", ".yml", ".sh", ""}
_NOT_OURS = {
    ".git",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "demo_output",
    ".idea",
    ".vscode",
}


def project_files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of the project, without what .gitignore leaves out."""
    for path in sorted(folder.iterdir()):
        if path.name in _NOT_OURS or path.name.startswith(".venv"):
            continue
        if path.is_dir():
            yield from project_files(path)
        else:
            yield path


def python_files(*folders: str) -> list[Path]:
    """Python files of these folders, or of the whole project."""
    return [path for path in project_files() if path.suffix == ".py" and (not folders or top_folder(path) in folders)]


def pack_files() -> list[Path]:
    """The Python files that run inside ComfyUI: the root's __init__.py, nodes/ and sae/."""
    return [ROOT / "__init__.py", *python_files("nodes", "sae")]


def top_folder(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(name: str) -> list[str]:
    """The lines of a requirements file that ask for something."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

"""Reference checkpoints with expected outputs. They are not part of the project: tests skip where they are missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from project_files import ROOT

GOLDENS = Path(os.environ.get("SAE_GOLDENS") or ROOT.parent / "shared" / "goldens")


def golden(name: str) -> Path:
    """The weight file of a golden checkpoint; skips the test where there is none."""
    found = sorted((GOLDENS / name).glob("*.safetensors"))
    if not found:
        pytest.skip(f"no reference checkpoint {name} in {GOLDENS}; the variable SAE_GOLDENS names their folder")
    return found[0]


def expected(path: Path) -> dict[str, Tensor]:
    """x (16, 8), f (16, 24) and xhat (16, 8) of a golden checkpoint."""
    return torch.load(path.with_name("expected.pt"), weights_only=True)


def copy_as(path: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The golden checkpoint with its weights rounded to `dtype`, in another folder."""
    for config in path.parent.glob("*.json"):
        shutil.copyfile(config, folder / config.name)
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, folder / path.name)
    return folder / path.name

"""Run by the Python that has sae-lens: `python sae_lens_training_side.py FOLDER ROOT`.

Trains by this project's command on FOLDER/shards into FOLDER/ARCHITECTURE, and encodes FOLDER/x.safetensors with what
SAELens itself loads from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, sys.argv[2])

from sae_lens import SAE

from sae.__main__ import main


@torch.no_grad()
def encode(folder: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    sae = SAE.load_from_disk(folder)
    f = sae.encode(x)
    return {"f": f.contiguous(), "xhat": sae.decode(f).contiguous()}


def train_all(folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    for architecture, flags in json.loads((folder / "flags.json").read_text(encoding="utf-8")).items():
        command = ["train", "--trainer", "sae-lens", "--architecture", architecture, *flags]
        if main([*command, "--data", str(folder / "shards"), "--out", str(folder / architecture)]) != 0:
            sys.exit(f"{architecture} was not trained")
        (site,) = (path for path in (folder / architecture).iterdir() if path.is_dir())
        save_file(encode(site, x), folder / f"{architecture}.safetensors")


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))

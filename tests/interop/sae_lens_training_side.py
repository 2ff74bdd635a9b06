"""Run by the Python that has sae-lens: `python sae_lens_training_side.py FOLDER ROOT`.

Trains by this project's command on FOLDER/shards into FOLDER/ARCHITECTURE, and encodes FOLDER/x.safetensors with what
SAELens itself loads from there. Then once more into FOLDER/stopped, where Ctrl-C comes in between; FOLDER/stopped.json
has what the command returned.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, sys.argv[2])

from sae_lens import SAE

from sae.__main__ import main
from sae.commands import train_sae_lens

STOPPED_IN_BATCH = 31  # the tenth and earlier only tell SAELens the tokens' norm


@torch.no_grad()
def encode(folder: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    sae = SAE.load_from_disk(folder)
    f = sae.encode(x)
    return {"f": f.contiguous(), "xhat": sae.decode(f).contiguous()}


def train(folder: Path, architecture: str, out: Path, flags: list[str]) -> int:
    command = ["train", "--trainer", "sae-lens", "--architecture", architecture, *flags]
    return main([*command, "--data", str(folder / "shards"), "--out", str(out)])


def stop_early(folder: Path) -> None:
    """Ctrl-C while a batch is read."""
    plain = train_sae_lens._batches

    def interrupted(*given: Any) -> Iterator[torch.Tensor]:
        for number, batch in enumerate(plain(*given), 1):
            if number == STOPPED_IN_BATCH:
                signal.raise_signal(signal.SIGINT)
            yield batch

    train_sae_lens._batches = interrupted
    flags = json.loads((folder / "flags.json").read_text(encoding="utf-8"))["standard"]
    code = train(folder, "standard", folder / "stopped", flags)
    (folder / "stopped.json").write_text(json.dumps(code), encoding="utf-8")


def train_all(folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    for architecture, flags in json.loads((folder / "flags.json").read_text(encoding="utf-8")).items():
        if train(folder, architecture, folder / architecture, flags) != 0:
            sys.exit(f"{architecture} was not trained")
        (site,) = (path for path in (folder / architecture).iterdir() if path.is_dir())
        save_file(encode(site, x), folder / f"{architecture}.safetensors")


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
    stop_early(Path(sys.argv[1]))

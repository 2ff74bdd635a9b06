"""Puts trained weights into the pack: python -m lab.train.ship [--transformer FILE] [--decoder FILE] [--saes FOLDER].

Everything is stored in half precision; the SAEs' statistics stay as they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sae.demo.shipped_weights import DECODER, SAE_NAMES, TRANSFORMER, WEIGHTS
from sae.dictionary.statistics import read_statistics, write_statistics
from sae.formats import load


def ship(saes: Path | None, transformer: Path | None, decoder: Path | None) -> None:
    """Writes the state dicts (.pt) and those of SAE_NAMES that have a folder in `saes` into the pack's weights."""
    WEIGHTS.mkdir(exist_ok=True)
    for source, target in ((transformer, TRANSFORMER), (decoder, DECODER)):
        if source is not None:
            _save_half(torch.load(source, map_location="cpu", weights_only=True), target)
    for name in SAE_NAMES:
        if saes is not None and (saes / name).is_dir():
            ship_sae(saes / name, WEIGHTS / name)


def ship_sae(source: Path, target: Path) -> None:
    """Copies a folder of lab.train.saes, its weights in half precision."""
    target.mkdir(parents=True, exist_ok=True)
    _save_half(load_file(source / "model.safetensors"), target / "model.safetensors")
    shutil.copyfile(source / "config.json", target / "config.json")
    statistics = target / "model.stats.safetensors"
    statistics.unlink(missing_ok=True)
    write_statistics(read_statistics(source / statistics.name), statistics, load(target).owner)


def _save_half(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", type=Path)
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--saes", type=Path, help="folder that lab.train.saes wrote")
    given = parser.parse_args()
    ship(given.saes, given.transformer, given.decoder)


if __name__ == "__main__":
    main()

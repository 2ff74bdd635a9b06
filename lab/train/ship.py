"""Puts trained weights into the pack: python -m lab.train.ship --transformer FILE --decoder FILE --saes FOLDER.

Everything is stored in half precision; the SAEs' statistics stay as they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sae.demo.files import DECODER, SAE_NAMES, TRANSFORMER, WEIGHTS
from sae.dictionary.statistics import read_statistics, write_statistics
from sae.formats import load


def ship(transformer: Path, decoder: Path, saes: Path) -> None:
    """Writes the state dicts (.pt) and the folders of SAE_NAMES into the pack's weights folder."""
    WEIGHTS.mkdir(exist_ok=True)
    for source, target in ((transformer, TRANSFORMER), (decoder, DECODER)):
        _save_half(torch.load(source, map_location="cpu", weights_only=True), target)
    for name in SAE_NAMES:
        ship_sae(saes / name, WEIGHTS / name)


def ship_sae(source: Path, target: Path) -> None:
    """Copies a folder of train_saes, its weights in half precision."""
    target.mkdir(exist_ok=True)
    _save_half(load_file(source / "model.safetensors"), target / "model.safetensors")
    shutil.copyfile(source / "config.json", target / "config.json")
    statistics = target / "model.stats.safetensors"
    statistics.unlink(missing_ok=True)
    write_statistics(read_statistics(source / statistics.name), statistics, load(target).owner)


def _save_half(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", type=Path, required=True)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--saes", type=Path, required=True, help="folder that train_saes wrote")
    given = parser.parse_args()
    ship(given.transformer, given.decoder, given.saes)


if __name__ == "__main__":
    main()

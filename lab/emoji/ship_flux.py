"""Puts a run's averaged weights, words, code and decoder into lab/emoji/weights.

python -m lab.emoji.ship_flux --folder F. From there another machine goes on (lab.emoji.train_flux --start). Each commit
of them makes the repository 21 MB larger.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
NEEDED = ("average.safetensors", "words.json", "code.safetensors")
DECODER = "decoder.safetensors"


def ship(run: Path, weights: Path = WEIGHTS) -> list[str]:
    """Copies the files, the decoder only where there is one; returns their names."""
    missing = [name for name in NEEDED if not (run / name).exists()]
    if missing:
        raise ValueError(f"--folder: {run} has no {missing[0]}; give the folder that lab.emoji.train_flux writes into.")
    names = [*NEEDED, *([DECODER] if (run / DECODER).exists() else [])]
    weights.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(run / name, weights / name)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the run's")
    print(*ship(parser.parse_args().folder))


if __name__ == "__main__":
    main()

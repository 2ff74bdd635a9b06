"""Puts the trained small Kandinsky into the pack: python -m lab.kandinsky.ship_parts --folder FOLDER.

Two diffusers folders in half precision. The SAE comes after: lab/kandinsky/embed_sae.py.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from sae.demo.shipped_weights import KANDINSKY_DECODER, KANDINSKY_PRIOR

from .models import build_clip, build_movq, build_prior, build_unet, decoder_pipeline, prior_pipeline
from .train_parts import load_part


def ship(folder: Path) -> None:
    """`folder` is where train.py left its parts."""
    parts = {"clip": build_clip(), "prior": build_prior(), "unet": build_unet(), "movq": build_movq()}
    clip, prior, unet, movq = (load_part(part, folder, name) for name, part in parts.items())
    for path, pipeline in (
        (KANDINSKY_PRIOR, prior_pipeline(clip, prior)),
        (KANDINSKY_DECODER, decoder_pipeline(unet, movq)),
    ):
        shutil.rmtree(path, ignore_errors=True)
        pipeline.to(torch.float16).save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where train.py left its parts")
    ship(parser.parse_args().folder)


if __name__ == "__main__":
    main()

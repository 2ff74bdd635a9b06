"""Trains two small SAEs and says their steps; run as a program to be killed: FOLDER [STEPS A SECOND]."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from numbered_source import NumberedSource
from sae.training.config import TopKConfig
from sae.training.run import RunSettings, TrainingRun

STEPS = 60
WIDTHS = {"transformer_blocks.0-text": 16, "transformer_blocks.1-image": 24}


def run_in(folder: Path) -> TrainingRun:
    configs = {
        name: TopKConfig(
            d_in=width, d_sae=48, k=3, steps=STEPS, batch_tokens=32, dead_tokens=500, warmup_steps=5,
            architecture="batchtopk", average=0.9,
        )
        for name, width in WIDTHS.items()
    }  # fmt: skip
    settings = RunSettings(buffer_tokens=256, report_every=1, save_every=7)
    return TrainingRun(NumberedSource(), configs, folder / "training.pt", settings)


def main() -> None:
    torch.set_num_threads(1)
    for progress in run_in(Path(sys.argv[1])).go():
        sys.stdout.write(f"{progress.step}\n")
        sys.stdout.flush()
        time.sleep(0.02)


if __name__ == "__main__":
    main()

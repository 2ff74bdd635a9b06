"""python -m lab.bench: what steering costs at FLUX's width, on Shapes and on a UNet, what loading an SAE for `add`
takes, and what training takes beside other libraries."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from sae.demo.shapes import Prompt
from sae.demo.shipped_weights import TEXT_SAE, load_sae, load_transformer
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.formats import load
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit, Method
from sae.steering.intervention import Intervention

from ..judge.steer import draw_steered
from .full_size import run_in_comfyui
from .training import race_all
from .unet import time_unet
from .width import seconds, time_products, time_taps, time_topk

D_SAE, D_IN = 49_152, 3_072
STEPS, ROUNDS, PICTURES = 8, 3, 16
METHODS: tuple[Method, ...] = ("add", "scale", "surgery")


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    return psutil.Process().memory_info().rss / 2**20


def time_steps(sae: SparseAutoencoder) -> None:
    transformer, prompt = load_transformer(), Prompt("red", "square", "left", "big", "white")
    prompts, seeds = [prompt] * PICTURES, range(PICTURES)
    site = parse_location("transformer_blocks.0-1", "image")
    edits = [Edit(1), Edit(2), Edit(3)]
    found = seconds(
        {
            method or "unsteered": partial(
                draw_steered, transformer, prompts, seeds,
                [Intervention(Steering(sae, edits, method, 0.1), site)] if method else [],
            )
            for method in (None, *METHODS)
        },
        ROUNDS,
    )  # fmt: skip
    base = found["unsteered"]
    print(f"Time per step on Shapes, {PICTURES} pictures, 3 features at 2 blocks, {sae.d_sae} features of {sae.d_in}:")
    for name, value in found.items():
        print(f"  {name:10} {value / STEPS * 1000:8.1f} ms   {value / base:5.2f} × unsteered")


def write_large(folder: Path) -> Path:
    """A 49,152 × 3,072 SAE in the layout of the public FLUX SAEs."""
    tensors = {
        "bias": torch.zeros(D_IN),
        "encoder.weight": torch.full((D_SAE, D_IN), 0.01),
        "encoder.bias": torch.zeros(D_SAE),
        "decoder.weight": torch.full((D_IN, D_SAE), 0.01),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"features": D_IN, "pages": D_SAE, "k": 16, "sample": None}))
    return folder / "model.safetensors"


def measure_loading(folder: Path) -> None:
    path = folder / "model.safetensors"
    size, before, start = path.stat().st_size / 2**20, resident_mb(), time.perf_counter()
    load(path).direction([5, 500, 40_000])
    elapsed, grown = time.perf_counter() - start, resident_mb() - before
    print(f"Loading for add: a file of {size:,.0f} MB, ready in {elapsed:.3f} s")
    print(f"  with {grown:.0f} MB more memory, {grown / size:.1%} of the file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure-loading", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.measure_loading:
        measure_loading(given.measure_loading)
        return
    torch.set_num_threads(1)  # threads that wait for each other would count too
    time_taps()
    time_topk()
    time_products()
    time_steps(load_sae(TEXT_SAE))
    time_unet()
    if not run_in_comfyui("loops", "measure()", cpu=True):
        print("Loops over pictures: left out; set COMFYUI_PATH to a ComfyUI that has its Python in .venv.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder))
        # A fresh process: the peak of this one already holds the weights that were written.
        subprocess.run([sys.executable, "-m", "lab.bench", "--measure-loading", folder], check=True)
    race_all()


if __name__ == "__main__":
    main()

"""python -m lab.bench.full_size: what steering costs a FLUX of full size with random weights, on a GPU, in ComfyUI.

COMFYUI_PATH names the ComfyUI; its Python must see the GPU. Needs 60 GB of its memory for bfloat16 weights, 30 for fp8.
All of a table are measured in one run, in turns; what steering adds is given as a ratio to the unsteered step.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.dictionary.owner import TrainedOn
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit, Method, Unit
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS

from .width import D_IN, D_SAE, clock_of, dense_topk, time_taps, time_topk

STEPS, ROUNDS = 6, 5
SIDE = 1_024  # pixels
TEXT, TEXT_WIDTH, POOLED = 512, 4_096, 768
DOUBLE, SINGLE = 19, 38
BLOCK = 12  # of the double ones, for what is steered at one place
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT_WIDTH, "hidden_size": D_IN,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": DOUBLE, "depth_single_blocks": SINGLE, "axes_dim": [16, 56, 56],
    "theta": 10_000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
WAYS: dict[str, tuple[Method, Sequence[str]]] = {
    "add, one block": ("add", [f"transformer_blocks.{BLOCK}"]),
    "add, 57 blocks": (
        "add",
        [f"transformer_blocks.0-{DOUBLE - 1}", f"single_transformer_blocks.0-{SINGLE - 1}"],
    ),
    "swap, one block": ("swap", [f"transformer_blocks.{BLOCK}"]),
    "surgery, one block": ("surgery", [f"transformer_blocks.{BLOCK}"]),
}


def load_flux(dtype: torch.dtype, device: torch.device) -> Any:
    """A MODEL whose weights are random, on the device from the beginning."""
    import comfy.ldm.flux.model
    import comfy.ops
    import comfy.sd

    empty = comfy.ldm.flux.model.Flux(
        operations=comfy.ops.disable_weight_init, device="meta", dtype=torch.bfloat16, **FLUX
    )
    random = torch.Generator(device).manual_seed(0)
    state = {name: _weight(tensor, dtype, random, device) for name, tensor in empty.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(state, {"dtype": dtype, "offload_device": device})


def _weight(like: Tensor, dtype: torch.dtype, random: torch.Generator, device: torch.device) -> Tensor:
    if like.ndim < 2:
        return torch.ones(like.shape, dtype=dtype, device=device)
    made = torch.randn(like.shape, dtype=torch.bfloat16, device=device, generator=random)
    return (made / like.shape[1] ** 0.5).to(dtype)


def random_sae(device: torch.device) -> SparseAutoencoder:
    """As wide as the public ones of FLUX.1: TopK, in bfloat16."""
    random = torch.Generator(device).manual_seed(1)
    shape = (D_SAE, D_IN)
    tensors = {
        name: torch.randn(shape, dtype=torch.bfloat16, device=device, generator=random) / D_IN**0.5
        for name in ("encoder", "decoder")
    }
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=16), name="random")
    sae.trained_on = TrainedOn("FLUX.1")
    return sae


def steered(model: Any, sae: SparseAutoencoder, method: Method, locations: Sequence[str]) -> Any:
    from sae.hosts.comfyui.steering import steer

    fires = {"mean": 1.0, "density": 0.5}
    replaces = [Edit(5, **fires)] if METHODS[method].needs_replaces else []
    unit: Unit = "token_norm" if METHODS[method].pushes else "raw"
    steering = Steering(sae, [Edit(3, 0.1, **fires)], method, 1.0, unit, replaces)
    sites = [parse_location(location, "image") for location in locations]
    return steer(model, [Intervention(steering, site) for site in sites], None)


def densely(model: Any, sae: SparseAutoencoder) -> Any:
    """Steered by all codes and a dense decode in float32, which is what hooks of that kind do."""
    encoder, decoder = sae.part("encoder").weight, sae.part("decoder").weight

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        image = out["img"]
        return {**out, "img": dense_topk(image[0], encoder, decoder, 16).to(image.dtype).unsqueeze(0)}

    patched = model.clone()
    patched.set_model_patch_replace(patch, "dit", "double_block", BLOCK)
    return patched


class Steps:
    """The times between the steps of a run, but for the first: a run begins with what is no step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.at, self.found = device, 0.0, list[float]()

    def __call__(self, step: int, *latents: object) -> None:
        now = clock_of(self.device)()
        if step:
            self.found.append(now - self.at)
        self.at = now


def draw(model: Any, device: torch.device) -> list[float]:
    """Seconds of each step."""
    import comfy.sample

    text = [[torch.zeros(1, TEXT, TEXT_WIDTH), {"pooled_output": torch.zeros(1, POOLED), "guidance": 3.5}]]
    latent = torch.zeros(1, 16, SIDE // 8, SIDE // 8)
    noise, steps = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2)), Steps(device)
    comfy.sample.sample(
        model, noise, STEPS, 1.0, "euler", "simple", text, text, latent, disable_pbar=True, seed=2, callback=steps
    )
    return steps.found


def time_flux(name: str, dtype: torch.dtype, device: torch.device) -> None:
    model, sae = load_flux(dtype, device), random_sae(device)
    models = {"unsteered": model} | {way: steered(model, sae, *given) for way, given in WAYS.items()}
    models["dense, one block"] = densely(model, sae)
    found: dict[str, list[float]] = {way: [] for way in models}
    for number in range(ROUNDS + 1):
        for way, one in models.items():
            steps = draw(one, device)
            found[way] += steps if number else []  # the first is to warm up
    base = median(found["unsteered"])
    print(f"FLUX.1, {name}, {SIDE} × {SIDE}, {TEXT} tokens of text, the middle of {len(found['unsteered'])} steps:")
    for way, times in found.items():
        step, ratio = median(times) * 1000, median(times) / base
        print(f"  {way:20} {step:8.2f} ms a step   {ratio:7.4f} × unsteered   {step - base * 1000:+7.2f} ms")
    sys.stdout.flush()


def measure(names: Sequence[str]) -> None:
    """In ComfyUI's Python."""
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}", flush=True)
    with torch.inference_mode():
        time_taps(device)
        time_topk(device)
        for name in names:
            time_flux(name, {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[name], device)
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", choices=("bf16", "fp8"), default=("bf16", "fp8"))
    given = parser.parse_args()
    if not run_in_comfyui("full_size", f"measure({list(given.weights)!r})", cpu=False):
        parser.error("COMFYUI_PATH: it names no ComfyUI with a Python in .venv; set it, and COMFYUI_PYTHON if need be.")


if __name__ == "__main__":
    main()


ROOT = Path(__file__).parents[2]


def run_in_comfyui(module: str, call: str, cpu: bool) -> bool:
    """`call` of lab.bench's `module`, in a process of its own. False where COMFYUI_PATH names no ComfyUI.

    Its Python is that in .venv there, or what COMFYUI_PYTHON says.
    """
    comfyui = Path(os.environ.get("COMFYUI_PATH", "")).expanduser().resolve()
    own = comfyui / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = Path(os.environ.get("COMFYUI_PYTHON", own)).expanduser()
    if not python.is_file() or not (comfyui / "main.py").is_file():
        return False
    # ComfyUI first: the project's `nodes` must not stand in front of its own
    code = f"import sys; sys.path[:] = [{str(comfyui)!r}, *sys.path[1:], {str(ROOT)!r}]; " + (
        f"import comfy.cli_args; comfy.cli_args.args.cpu = {cpu}; from lab.bench import {module}; {module}.{call}"
    )
    subprocess.run([str(python), "-c", code], cwd=ROOT, check=True)
    return True

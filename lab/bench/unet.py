"""What steering one place costs a UNet of diffusers on a CPU, beside its unsteered step in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.hosts.diffusers import steer
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit, Method, Unit
from sae.steering.intervention import Intervention

from .width import seconds

SIDE, TEXT, TEXT_WIDTH = 32, 77, 768  # latent cells each way: 8 × 8 tokens of full width where it is steered
WIDTHS = (96, 192, 384, 384)
PLACE = "down_blocks.2.attentions.1"
D_SAE, K = 5_120, 10  # of sdxl-unbox
CALLS, ROUNDS = 2, 9
WAYS: dict[str, tuple[Method, str]] = {
    "add, output": ("add", PLACE),
    "add, update": ("add", f"{PLACE}.update"),
    "add, attention to the text": ("add", f"{PLACE}.transformer_blocks.0.attn2"),
    "scale, update": ("scale", f"{PLACE}.update"),
}


def time_unet() -> None:
    """Prints the table. A third as wide as Stable Diffusion 1.5, with its blocks."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=WIDTHS, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8
    )
    unet.eval().requires_grad_(False)
    given = {
        "sample": torch.randn(1, 4, SIDE, SIDE), "timestep": 500.0,
        "encoder_hidden_states": torch.randn(1, TEXT, TEXT_WIDTH),
    }  # fmt: skip
    sae = random_sae(WIDTHS[2])
    ways: dict[str, Callable[[], object]] = {"unsteered": lambda: _calls(unet, given)}
    for name, (method, location) in WAYS.items():
        ways[name] = _steered(unet, given, sae, method, location)
    found = seconds(ways, ROUNDS)
    base = found["unsteered"]
    print(f"Time per step on a UNet {WIDTHS} wide, {SIDE} × {SIDE} latent cells, one feature of {D_SAE}:")
    for name, value in found.items():
        print(f"  {name:28} {value / CALLS * 1000:8.1f} ms   {value / base:6.3f} × unsteered")


def random_sae(width: int) -> SparseAutoencoder:
    random = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(D_SAE, width, generator=random) / width**0.5 for name in ("encoder", "decoder")}
    return SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=K), name="random")


def _steered(
    unet: Any, given: dict[str, Any], sae: SparseAutoencoder, method: Method, location: str
) -> Callable[[], None]:
    unit: Unit = "token_norm" if method == "add" else "raw"
    steering = Steering(sae, [Edit(3)], method, 0.1, unit)

    def way() -> None:
        with steer(unet, [Intervention(steering, parse_location(location))]):
            _calls(unet, given)

    return way


def _calls(unet: Any, given: dict[str, Any]) -> None:
    with torch.inference_mode():
        for _ in range(CALLS):
            unet(**given)

"""What a tiny random model of ComfyUI's own classes is made of, and where plain hooks on it go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch

WIDTH, TEXT_WIDTH, TEXT = 128, 64, 6


@dataclass(frozen=True)
class Place:
    """`output` is the number of the tensor in the module's result, None where it is the result; `columns` are of the
    module's input. `given` is the block's argument that an update starts from, or that an input is: a name, or a
    number."""

    location: str
    stream: str
    module: str
    spans: tuple[tuple[int, int], ...]
    output: int | None = None
    columns: int = 0
    given: str | int | None = None
    as_map: bool = False  # of a UNet's transformer: (batch, width, rows, columns)


@dataclass(frozen=True)
class Case:
    family: str
    build: Callable[[], Any]  # core's model object
    latent: tuple[int, ...]
    places: tuple[Place, ...]
    width: int = WIDTH
    text_width: int = TEXT_WIDTH
    pooled_width: int = 16
    more: dict[str, Any] = field(default_factory=dict)  # in the conditioning
    depth: dict[str, Any] = field(default_factory=dict)
    slot: str | None = "double_block"  # of the first place, for other packs' patches
    detected: bool = False  # core's own detection makes the same model from its weights


def random_for(seed):
    return torch.Generator().manual_seed(seed)


def make(config, **unet):
    """Core's model object for a config of `supported_models`, with every weight away from zero."""
    shape = {**config.unet_config, **unet, "dtype": torch.float32}
    made = config(shape)
    made.unet_config = shape
    model = made.get_model({}, "")
    fill(model.diffusion_model)
    return model.eval().requires_grad_(False)


def fill(network, seed=3):
    random = random_for(seed)
    for name, weight in network.named_parameters():
        values = torch.randn(weight.shape, generator=random)
        if weight.ndim == 1:
            norm = "norm" in name and name.endswith(("weight",))
            weight.data = (1 + 0.1 * values if norm else 0.2 * values).float()
        else:
            fan_in = weight[0].numel()
            weight.data = (1.5 * values / fan_in**0.5).float()


def build(case):
    return patcher(case.build())


def patcher(model):
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def conditioning(case, seed=2, tokens=TEXT):
    text = torch.randn(1, tokens, case.text_width, generator=random_for(seed))
    pooled = torch.randn(1, case.pooled_width, generator=random_for(seed + 1))
    return [[text, {"pooled_output": pooled, **case.more}]]

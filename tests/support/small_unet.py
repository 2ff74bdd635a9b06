"""Small random UNets of diffusers, in the shapes of Stable Diffusion 1, 2, SDXL, its refiner and Kandinsky 2.2, and
steering as one writes it by hand: forward hooks on their modules."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel

POOLED, SIZES = 1280, 6  # of SDXL; its refiner has 5 sizes
_CROSS, _PLAIN = "CrossAttn{}Block2D", "{}Block2D"
_SD = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": (*(_CROSS.format("Down"),) * 3, _PLAIN.format("Down")),
    "up_block_types": (_PLAIN.format("Up"), *(_CROSS.format("Up"),) * 3),
}
_VECTOR = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "use_linear_projection": True}
UNETS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 2},
    "Stable Diffusion 2": {
        **_SD, "cross_attention_dim": 1024, "attention_head_dim": (1, 1, 2, 2), "use_linear_projection": True,
    },
    "SDXL": {
        "block_out_channels": (32, 32, 64),
        "down_block_types": (_PLAIN.format("Down"), *(_CROSS.format("Down"),) * 2),
        "up_block_types": (*(_CROSS.format("Up"),) * 2, _PLAIN.format("Up")),
        "transformer_layers_per_block": (1, 1, 2), "attention_head_dim": (1, 1, 2), "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": POOLED + SIZES * 256, **_VECTOR,
    },
    "SDXL Refiner": {
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": (_PLAIN.format("Down"), *(_CROSS.format("Down"),) * 2, _PLAIN.format("Down")),
        "up_block_types": (_PLAIN.format("Up"), *(_CROSS.format("Up"),) * 2, _PLAIN.format("Up")),
        "transformer_layers_per_block": (1, 1, 2, 2), "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": POOLED + (SIZES - 1) * 256, **_VECTOR,
    },
    "Kandinsky 2.2": {
        "block_out_channels": (32, 64), "layers_per_block": 1, "attention_head_dim": 32, "cross_attention_dim": 48,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "addition_embed_type": "image", "encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 40,
        "resnet_time_scale_shift": "scale_shift",
    },
}  # fmt: skip


def small_unet(name: str) -> UNet2DConditionModel:
    torch.manual_seed(5)
    unet = UNet2DConditionModel(**{"sample_size": 16, "in_channels": 4, "out_channels": 4, **UNETS[name]})
    for weight in unet.parameters():
        if weight.ndim > 1:
            weight.data *= 1.6
    return unet.eval().requires_grad_(False)


def call_of(name: str, batch: int = 1, height: int = 16, width: int = 16, timestep: float = 500) -> dict[str, Any]:
    """Arguments of one call."""
    random = torch.Generator().manual_seed(2)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    given: dict[str, Any] = {"sample": some(batch, 4, height, width), "timestep": timestep}
    given["encoder_hidden_states"] = some(batch, 6, UNETS[name]["cross_attention_dim"])
    if name == "Kandinsky 2.2":
        given.update(encoder_hidden_states=None, added_cond_kwargs={"image_embeds": some(batch, 40)})
    elif name.startswith("SDXL"):
        sizes = torch.tensor([[128.0] * (SIZES - name.endswith("Refiner"))]).expand(batch, -1)
        given["added_cond_kwargs"] = {"text_embeds": some(batch, POOLED), "time_ids": sizes}
    return given


@contextmanager
def hooked(unet, location, change):
    """`change(x, read)` gives the new tokens (batch, tokens, width); `read` is output - input at an update."""
    update = location.endswith(".update")
    place = re.fullmatch(r"(.*?)\.([0-9,-]+)((?:\.[a-z]\w*)?)", location.removesuffix(".update"))
    path, numbers, point = place.groups()
    first, _, last = numbers.partition("-")
    handles, before = [], {}

    def tokens(x):
        return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x

    def keep(module, args, kwargs):
        before[module] = (args[0] if args else kwargs["hidden_states"]).clone()

    def hook(module, args, output):
        x = output if torch.is_tensor(output) else output[0]
        flat = tokens(x)
        read = flat - tokens(before[module]) if update else flat
        changed = change(flat, read)
        changed = changed.transpose(1, 2).reshape(x.shape) if x.ndim == 4 else changed
        return changed if torch.is_tensor(output) else (changed,)

    for number in range(int(first), int(last or first) + 1):
        module = unet.get_submodule(f"{path}.{number}{point}")
        handles += [module.register_forward_pre_hook(keep, with_kwargs=True), module.register_forward_hook(hook)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

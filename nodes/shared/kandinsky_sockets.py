"""What the Kandinsky nodes share: sockets, inputs, embeddings as CLIP_VISION_OUTPUT, weights, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ...sae.hosts.comfyui.memory import load_whole
from ...sae.hosts.kandinsky import Half, KandinskyHalf
from .sockets import CATEGORY

KANDINSKY = f"{CATEGORY}/Kandinsky 2.2"

KandinskyPriorModel = io.Custom("KANDINSKY_PRIOR")
KandinskyDecoder = io.Custom("KANDINSKY_DECODER")

NEGATIVE_TIP = "What the decoder keeps away from: without negative text the embedding of a blank picture."


def seed_input(tooltip: str) -> io.Int.Input:
    limit = 0xFFFFFFFFFFFFFFFF
    return io.Int.Input("seed", default=0, min=0, max=limit, control_after_generate=True, tooltip=tooltip)


def guidance_input(tooltip: str) -> io.Float.Input:
    return io.Float.Input("guidance", default=4.0, min=1.0, max=30.0, step=0.1, tooltip=tooltip)


def embedding(image_embeds: Tensor, **more: Tensor) -> Any:
    """A CLIP_VISION_OUTPUT; the states that nobody computed are None."""
    output = comfy.clip_vision.Output()
    names = ("last_hidden_state", "penultimate_hidden_states", "mm_projected", "image_sizes")
    device = comfy.model_management.intermediate_device()
    for name, tensor in {**dict.fromkeys(names), "image_embeds": image_embeds, **more}.items():
        output[name] = tensor if tensor is None else tensor.to(device)
    return output


def load_parts(half: KandinskyHalf | None, kind: Half, names: tuple[str, ...], memory: float = 0) -> KandinskyHalf:
    """Lets ComfyUI bring these modules to the device, with `memory` bytes beside them."""
    if not isinstance(half, KandinskyHalf) or half.half != kind:
        raise ValueError(f"{kind}: nothing came; choose its folder in Load Kandinsky 2.2.")
    load_whole({name: half.part(name) for name in names}, half.handles, memory)
    return half


def step_progress(steps: int, preview: Callable[[Tensor], Any] | None = None) -> Callable[[int, int, Tensor], None]:
    """A bar that moves with the steps, shows a picture where previews are on, and notices Cancel at each step."""
    bar = comfy.utils.ProgressBar(steps)

    def tell(done: int, total: int, latents: Tensor) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total, preview(latents) if preview else None)

    return tell

"""What the Kandinsky nodes share: sockets, inputs, embeddings as CLIP_VISION_OUTPUT, weights, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

KandinskyPriorModel = io.Custom("KANDINSKY_PRIOR")
KandinskyDecoder = io.Custom("KANDINSKY_DECODER")

NEGATIVE_TIP = "What the decoder keeps away from: without negative text the embedding of a blank picture."


def seed_input(tooltip: str) -> io.Int.Input:
    limit = 0xFFFFFFFFFFFFFFFF
    control = io.ControlAfterGenerate.fixed
    return io.Int.Input("seed", default=0, min=0, max=limit, control_after_generate=control, tooltip=tooltip)


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


def step_progress(steps: int, preview: Callable[[Tensor], Any] | None = None) -> Callable[[int, int, Tensor], None]:
    """A bar that moves with the steps, shows a picture where previews are on, and notices Cancel at each step."""
    bar = comfy.utils.ProgressBar(steps)

    def tell(done: int, total: int, latents: Tensor) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total, preview(latents) if preview else None)

    return tell

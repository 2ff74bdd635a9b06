from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ...sae.hosts.kandinsky import INDEX, Half, KandinskyHalf
from ..inputs.menu import KANDINSKY

KIND = "diffusers"
NONE = "none"
DEPTH = 3  # folders below models/diffusers that are looked into


def diffusers_names() -> list[str]:
    """Model folders as paths inside models/diffusers, as core's DiffusersLoader lists them."""
    return sorted({name for base in folder_paths.get_folder_paths(KIND) for name in _names_in(Path(base))})


def _names_in(base: Path) -> list[str]:
    found = []
    for folder, below, files in os.walk(base, followlinks=True):  # as core does; the depth ends any circle
        path = Path(folder).relative_to(base)
        if INDEX in files:
            found.append(path.as_posix())
        if INDEX in files or len(path.parts) >= DEPTH:
            below.clear()
    return found


def diffusers_path(name: str, what: str) -> Path:
    """Where a listed model lies. ValueError for any other name, and for one that has gone since."""
    if name not in diffusers_names():
        raise ValueError(
            f"{what}: {name!r} is not among the folders in models/diffusers; put a diffusers folder of Kandinsky 2.2 "
            f"there (with its {INDEX}) and choose it."
        )
    for base in folder_paths.get_folder_paths(KIND):
        if (Path(base) / name / INDEX).is_file():
            return Path(base) / name
    raise ValueError(f"{what}: {name!r} is no longer in models/diffusers; put it back or choose another.")


AUTO = "auto"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class LoadKandinsky22(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [NONE, *diffusers_names()]
        return io.Schema(
            node_id="LoadKandinsky22",
            display_name="Load Kandinsky 2.2",
            category=KANDINSKY,
            description=(
                "Takes Kandinsky 2.2 from diffusers folders in models/diffusers: its prior (text or picture to "
                "embedding) and its decoder (embedding to picture). Needs diffusers; downloads nothing."
            ),
            search_aliases=["kandinsky", "unclip", "kandinsky loader"],
            inputs=[
                io.Combo.Input(
                    "prior",
                    options=names,
                    tooltip="The folder of kandinsky-community/kandinsky-2-2-prior in models/diffusers, or none.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=names,
                    tooltip="The folder of kandinsky-community/kandinsky-2-2-decoder in models/diffusers, or none.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *DTYPES],
                    default=AUTO,
                    tooltip="Of the weights. 'auto' takes float16 on graphics cards that compute in it, else float32.",
                ),
            ],
            outputs=[
                KandinskyPriorModel.Output(display_name="prior", tooltip="For Kandinsky Prior and Encode Image."),
                KandinskyDecoder.Output(display_name="decoder", tooltip="For Kandinsky Decode."),
            ],
        )

    @classmethod
    def execute(cls, prior: str, decoder: str, dtype: str) -> io.NodeOutput:
        if prior == decoder == NONE:
            raise ValueError("prior, decoder: both are none; choose at least one folder of Kandinsky 2.2.")
        weights = _dtype(dtype)
        return io.NodeOutput(_half(prior, "prior", weights), _half(decoder, "decoder", weights))


def _half(name: str, half: Half, dtype: torch.dtype) -> KandinskyHalf | None:
    return None if name == NONE else KandinskyHalf(diffusers_path(name, half), half, dtype)


def _dtype(name: str) -> torch.dtype:
    device = comfy.model_management.get_torch_device()
    if name == AUTO:
        return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    if name == "float16" and comfy.model_management.is_device_cpu(device):
        raise ValueError("dtype: float16 came, but the CPU cannot compute Kandinsky in it; use auto or float32.")
    if name not in DTYPES:
        raise ValueError(f"dtype: {name!r} is not a type of weights; use auto or one of {', '.join(DTYPES)}.")
    return DTYPES[name]


NODES = [LoadKandinsky22]


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

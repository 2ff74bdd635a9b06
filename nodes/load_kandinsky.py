from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..sae.hosts.kandinsky import Half, KandinskyHalf
from .shared.kandinsky_folders import NONE, diffusers_names, diffusers_path
from .shared.kandinsky_sockets import KANDINSKY, KandinskyDecoder, KandinskyPriorModel

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

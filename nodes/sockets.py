"""The pack's own socket types, and inputs that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..sae.site import STREAMS

CATEGORY = "SAE Steering"

Sae = io.Custom("SAE")
SaeFeatures = io.Custom("SAE_FEATURES")

LOCATION_TIP = (
    "Where in FLUX. 'auto' takes the place that the SAE's file name tells. Otherwise diffusers' module paths: "
    "transformer_blocks.5, transformer_blocks.0-18.attn, transformer_blocks.3,7.ff, transformer_blocks.2.ff_context, "
    "single_transformer_blocks.0-9, single_transformer_blocks.4.attn; ComfyUI's names such as double_blocks.5 work too."
)
STREAM_TIP = (
    "Which tokens: image, text, or joint (both, in single blocks). 'auto' takes the stream the SAE was trained on, "
    "else image in double blocks and joint in single blocks."
)


def location_input() -> io.String.Input:
    return io.String.Input("location", default="auto", tooltip=LOCATION_TIP)


def stream_input() -> io.Combo.Input:
    return io.Combo.Input("stream", options=["auto", *STREAMS], default="auto", tooltip=STREAM_TIP)

"""The pack's own socket types, and inputs that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ...sae.places.site import STREAMS
from ...sae.steering.delta import Steering
from ...sae.steering.edits import METHODS, UNITS

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

METHOD_TIP = (
    "add: put the feature's direction on every token · set: hold the feature at a value · scale: multiply what is "
    "there (0 removes, 2 doubles) · boost_if_active: add where the feature already fires · project_out: remove the "
    "direction, whatever put it there · surgery: replace the activation by the SAE's reconstruction with the feature "
    "added; it loses what the SAE cannot express, so prefer add · swap: take the features of 'replaces' out where they "
    "fire and put these there as strongly (strength 1 is the natural amount)."
)


def location_input() -> io.String.Input:
    return io.String.Input("location", default="auto", tooltip=LOCATION_TIP)


def stream_input() -> io.Combo.Input:
    return io.Combo.Input("stream", options=["auto", *STREAMS], default="auto", tooltip=STREAM_TIP)


def steering_inputs(finder: str, strength: float, unit_tip: str) -> list[io.Input]:
    """Features, method, strength and unit; `finder` is the node that lists features for this place."""
    return [
        SaeFeatures.Input("features", tooltip=f"From {finder} or SAEFeature."),
        io.Combo.Input("method", options=list(METHODS), default="add", tooltip=METHOD_TIP),
        io.Float.Input(
            "strength",
            default=strength,
            min=-1000.0,
            max=1000.0,
            step=0.05,
            round=False,
            tooltip="Multiplies the strength of every feature. Start small; 0 with 'add' changes nothing.",
        ),
        io.Combo.Input("unit", options=list(UNITS), default="token_norm", tooltip=unit_tip),
    ]


def steering_warnings(steering: Steering) -> list[str]:
    """What is known to fail wherever the steering acts."""
    found = steering.warnings
    statistics = steering.statistics
    dead = [] if statistics is None else [k for k in steering.features if statistics.dead[k]]
    if dead:
        names = ", ".join(map(str, dead))
        found.append(f"Dead in this SAE, it never fired while it was measured: feature {names}. Choose others.")
    if steering.method == "surgery":
        found.append("surgery loses what the SAE cannot express; add gives the same shift without that loss.")
    return found

"""The pack's nodes: one concept a file, and each file lists its node classes in NODES."""

from comfy_api.latest import io

from . import (
    export_sae,
    flux_activation_steer,
    inspect_sae,
    load_sae,
    sae_feature,
    shapes_demo,
    top_activating_features,
)

FILES = (load_sae, sae_feature, top_activating_features, flux_activation_steer, inspect_sae, export_sae, shapes_demo)
NODES: list[type[io.ComfyNode]] = [node for file in FILES for node in file.NODES]

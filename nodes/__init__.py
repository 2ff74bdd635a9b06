"""The pack's nodes: one concept a file, and each file lists its node classes in NODES."""

from comfy_api.latest import io

from . import (
    blend_embed_features,
    calibrate_strength,
    clip_embed_steer,
    export_sae,
    feature_heatmap,
    feature_mixer,
    flux_activation_steer,
    inspect_sae,
    kandinsky_decode,
    kandinsky_encode_image,
    kandinsky_prior,
    label_embed_features,
    label_features,
    load_kandinsky,
    load_sae,
    recipes,
    sae_feature,
    shapes_demo,
    shapes_kandinsky,
    steering_sweep,
    top_activating_features,
    top_embed_features,
)

FILES = (
    load_sae,
    sae_feature,
    feature_mixer,
    top_activating_features,
    flux_activation_steer,
    feature_heatmap,
    steering_sweep,
    label_features,
    calibrate_strength,
    recipes,
    top_embed_features,
    clip_embed_steer,
    blend_embed_features,
    label_embed_features,
    load_kandinsky,
    kandinsky_prior,
    kandinsky_encode_image,
    kandinsky_decode,
    inspect_sae,
    export_sae,
    shapes_demo,
    shapes_kandinsky,
)
NODES: list[type[io.ComfyNode]] = [node for file in FILES for node in file.NODES]

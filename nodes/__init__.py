"""The pack's nodes. Each folder is a submenu of the node library, and each file lists its node classes in NODES."""

from comfy_api.latest import io

from .demo import shapes_demo
from .embeddings import clip_embed_steer, embed_features, label_embed_features
from .features import calibrate_strength, feature_browser, inspect_sae, label_features, load_sae
from .find import contrast_direction, contrast_pictures, feature_heatmap, inspect_model, top_activating_features
from .kandinsky import kandinsky_decode, kandinsky_embeddings, load_kandinsky
from .keep import recipe_nodes, save_weights
from .steer import activation_steer, before_and_after, concept_steer, feature_mixer, paint_region, steering_sweep
from .train import collect_activations, evaluate_sae, train_embed_sae, train_sae

FILES = (
    concept_steer,
    activation_steer,
    feature_mixer,
    steering_sweep,
    before_and_after,
    paint_region,
    top_activating_features,
    feature_heatmap,
    contrast_direction,
    contrast_pictures,
    inspect_model,
    load_sae,
    feature_browser,
    label_features,
    calibrate_strength,
    inspect_sae,
    recipe_nodes,
    save_weights,
    clip_embed_steer,
    embed_features,
    label_embed_features,
    load_kandinsky,
    kandinsky_embeddings,
    kandinsky_decode,
    collect_activations,
    train_sae,
    train_embed_sae,
    evaluate_sae,
    shapes_demo,
)
NODES: list[type[io.ComfyNode]] = [node for file in FILES for node in file.NODES]

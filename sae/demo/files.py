"""The demo's weight files, as they ship with the pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats import load
from .latents import ShapesDecoder
from .model import build_transformer

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMER = WEIGHTS / "shapes.safetensors"
DECODER = WEIGHTS / "shapes_decoder.safetensors"

# Folder name of each SAE; it tells the SAE's site.
TEXT_SAE = "shapes-transformer_blocks.0-text"
ATTENTION_SAE = "shapes-transformer_blocks.1.attn-image"
IMAGE_SAE = "shapes-transformer_blocks.1-image"
SAE_NAMES = (TEXT_SAE, ATTENTION_SAE, IMAGE_SAE)


def load_transformer() -> FluxTransformer2DModel:
    """The Shapes transformer in float32, for diffusers."""
    transformer = build_transformer()
    transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(TRANSFORMER).items()})
    return transformer.eval()


def load_decoder() -> ShapesDecoder:
    decoder = ShapesDecoder()
    decoder.load_state_dict({name: tensor.float() for name, tensor in load_file(DECODER).items()})
    return decoder.eval()


def load_sae(name: str) -> SparseAutoencoder:
    """One of SAE_NAMES."""
    return load(WEIGHTS / name / "model.safetensors", name=name)

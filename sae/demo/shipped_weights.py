"""The demo's weight files, as they ship with the pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import TrainedOn
from ..dictionary.sae_set import SaeSet
from ..formats import load
from .shapes_model import CONFIG, ShapesDecoder, build_transformer

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


WEIGHTS = Path(__file__).parent / "weights"
TRANSFORMER = WEIGHTS / "shapes.safetensors"
DECODER = WEIGHTS / "shapes_decoder.safetensors"

# Of the small Kandinsky: two folders of diffusers, and the folder of its embeddings' SAE.
KANDINSKY_PRIOR = WEIGHTS / "shapes-kandinsky-prior"
KANDINSKY_DECODER = WEIGHTS / "shapes-kandinsky-decoder"
EMBED_SAE = "shapes-image_embeds"

# Folder of each SAE; its name tells the SAE's site.
TEXT_SAE = "shapes-transformer_blocks.0-text"
ENTERING_SAE = "shapes-transformer_blocks.0.input-text"
IMAGE_SAE = "shapes-transformer_blocks.1-image"
SET_FOLDER = "shapes-attention"
# The attention outputs of the picture's stream, all that there are: one SAE set.
ATTENTION_SET = (
    *(f"{SET_FOLDER}/shapes-transformer_blocks.{n}.attn-image" for n in range(CONFIG["num_layers"])),
    *(f"{SET_FOLDER}/shapes-single_transformer_blocks.{n}.attn-image" for n in range(CONFIG["num_single_layers"])),
)
ATTENTION_SAE = ATTENTION_SET[1]  # of block 1: the one that is offered alone, too
SAE_NAMES = (
    *(TEXT_SAE, ATTENTION_SAE, IMAGE_SAE),
    *(name for name in ATTENTION_SET if name != ATTENTION_SAE),
    ENTERING_SAE,
)


def load_transformer(file: Path = TRANSFORMER) -> FluxTransformer2DModel:
    """The Shapes transformer in float32, for diffusers."""
    transformer = build_transformer()
    transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    return transformer.eval()


def load_decoder() -> ShapesDecoder:
    decoder = ShapesDecoder()
    decoder.load_state_dict({name: tensor.float() for name, tensor in load_file(DECODER).items()})
    return decoder.eval()


def load_sae(name: str) -> SparseAutoencoder:
    """One of SAE_NAMES."""
    sae = load(WEIGHTS / name / "model.safetensors", name=Path(name).name)
    sae.trained_on = TrainedOn("FLUX.1", "Shapes")
    return sae


def load_attention_set() -> SaeSet:
    """The SAEs of ATTENTION_SET as one."""
    return SaeSet((load_sae(name) for name in ATTENTION_SET), SET_FOLDER)

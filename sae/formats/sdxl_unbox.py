"""sdxl-unbox and the concept steerers: TopK SAEs in a nested state dict, with config.json.

Sources: github.com/surkovv/sdxl-unbox, github.com/kim-dahye/steerers. OpenAI's SAEs have the same tensors, but
normalise each token first.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from .checkpoint import Checkpoint, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "sdxl-unbox"
LAYOUT_NAMES = ("sdxl_unbox",)

_TENSORS = ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")
_BLOCK = re.compile(r"(?<![a-z_])transformer_blocks\.(\d+)(?![\d.])")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("pre_bias", "latent_bias") and "activation" not in checkpoint.extras


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config
    if checkpoint.asked is None and (config is None or "k" not in config):
        choice = "sdxl-unbox, or OpenAI's with its normalisation of each token"
        names = ("sdxl_unbox:10", "openai:32")
        raise checkpoint.undecided(choice, CONFIG_NAME, "n_dirs_local, d_model and k", names)
    checkpoint.check_tensors(_TENSORS, LAYOUTS, ignored=("stats_last_nonzero",))
    if config is not None:
        d_in, d_sae = checkpoint.width_and_count("decoder.weight", transposed=True)
        checkpoint.check_config_shape(config, {"d_model": d_in, "n_dirs_local": d_sae}, CONFIG_NAME)
    tensors = {
        **checkpoint.stored(input_bias="pre_bias", output_bias="pre_bias", encoder="encoder.weight"),
        **checkpoint.stored(encoder_bias="latent_bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    k = checkpoint.k(config, "k", CONFIG_NAME)
    return Reading(tensors, Architecture("topk", k=k), LAYOUTS, _hook(checkpoint.label))


def _hook(name: str) -> str | None:
    """FLUX SAEs of this project read the update of the image stream, and their folders name the block alone."""
    found = _BLOCK.search(name)
    return found and f"transformer_blocks.{found[1]}.update-image"

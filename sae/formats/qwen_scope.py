"""Qwen-Scope: a TopK SAE for every block of Qwen3 and Qwen3.5, `layer{n}.sae.pt`, one state dict without a config.

Source: the model cards of huggingface.co/Qwen/SAE-Res-*. It reads what block n gives out; b_dec is not taken off first.
k stands in config.json of newer uploads, and in the repository's name, such as SAE-Res-Qwen3-8B-Base-W64K-L0_50.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "Qwen-Scope"
LAYOUT_NAMES = ("qwen_scope",)

_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
_MODEL_TYPES = (None, "topk_sae")
_COUNTS = ("k", "top_k")
_WORDS = words(
    LAYOUTS, read="k top_k model_type architecture d_model d_in hidden_size d_sae latent_size",
    idle="hook_point num_layers layers l0 width layer expansion_factor",
)  # fmt: skip
_K = re.compile(r"L0_([1-9][0-9]{0,5})(?![0-9])")


def matches(checkpoint: Checkpoint) -> bool:
    """Others' W_enc is (d, F); this one, as nn.Linear has it, (F, d)."""
    if not checkpoint.has(*_TENSORS):
        return False
    encoder, decoder, features, width = (checkpoint.header[name].shape for name in _TENSORS)
    return encoder == (*features, *width) and decoder == (*width, *features) and features != width


def read(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_TENSORS, LAYOUTS)
    tensors = {
        **checkpoint.stored(encoder="W_enc", encoder_bias="b_enc", output_bias="b_dec"),
        **checkpoint.turned(decoder="W_dec"),
    }
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=True)
    config = checkpoint.config or {}
    widths, counts = (
        dict.fromkeys(("d_model", "d_in", "hidden_size"), d_in),
        dict.fromkeys(("d_sae", "latent_size"), d_sae),
    )
    checkpoint.check_config_shape(config, {**widths, **counts}, CONFIG_NAME)
    for word in ("model_type", "architecture"):
        if config.get(word) not in (*_MODEL_TYPES, "topk"):
            raise checkpoint.fail(f"{CONFIG_NAME} has {word} = {quoted(config[word])}; known is topk_sae.")
    k, notes = _k(checkpoint)
    notes += _WORDS.check(checkpoint, checkpoint.config, CONFIG_NAME)
    # A negative one of the k largest would be kept by Qwen's code and is 0 here. It needs a token that fewer than k of
    # some 65,536 features fire for, which does not occur in practice.
    return Reading(tensors, Architecture("topk", k=k), f"{LAYOUTS} topk", notes=notes)


def _k(checkpoint: Checkpoint) -> tuple[int, tuple[str, ...]]:
    """From the config, else from the nearest folder above whose name tells it, else from what the user gave.

    With a line where the folder's name says something else than the config.
    """
    config = checkpoint.config or {}
    words_given = [word for word in _COUNTS if config.get(word) is not None]
    folders = (_K.search(folder.name) for folder in checkpoint.path.absolute().parents)
    told = next((int(found[1]) for found in folders if found), None)
    if words_given:
        k = checkpoint.k(config, words_given[0], CONFIG_NAME)
        checkpoint.check_config_shape(config, dict.fromkeys(_COUNTS, k), CONFIG_NAME)
        apart = f"the folder's name has L0_{told}, but {CONFIG_NAME} has k = {k}, which was taken."
        return k, (apart,) if told not in (None, k) else ()
    asked = checkpoint.asked_k
    if told is None and asked is None:
        raise checkpoint.fail(
            "its k is told by the repository's name alone; keep the folder's name, such as "
            "SAE-Res-Qwen3-8B-Base-W64K-L0_50, or name the layout with k in the input architecture: qwen_scope:50."
        )
    if told is not None and asked is not None and told != asked:
        raise checkpoint.fail(f"architecture: k = {asked} was given, but the folder's name has L0_{told}.")
    return asked or told or 0, ()

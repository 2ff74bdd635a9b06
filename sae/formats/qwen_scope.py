"""Qwen-Scope: a TopK SAE for every block of Qwen3 and Qwen3.5, `layer{n}.sae.pt`, one state dict without a config.

Source: the model cards of huggingface.co/Qwen/SAE-Res-*. It reads what block n gives out; b_dec is not taken off first.
k stands in the repository's name alone, such as SAE-Res-Qwen3-8B-Base-W64K-L0_50.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from .checkpoint import Checkpoint, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "Qwen-Scope"
LAYOUT_NAMES = ("qwen_scope",)

_TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
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
    # A negative one of the k largest would be kept by Qwen's code and is 0 here. It needs a token that fewer than k of
    # some 65,536 features fire for, which does not occur in practice.
    return Reading(tensors, Architecture("topk", k=_k(checkpoint)), f"{LAYOUTS} topk")


def _k(checkpoint: Checkpoint) -> int:
    """From the name of the nearest folder above that tells it, or from what the user gave."""
    folders = (_K.search(folder.name) for folder in checkpoint.path.absolute().parents)
    told = next((int(found[1]) for found in folders if found), None)
    asked = checkpoint.asked_k
    if told is None and asked is None:
        raise checkpoint.fail(
            "its k is told by the repository's name alone; keep the folder's name, such as "
            "SAE-Res-Qwen3-8B-Base-W64K-L0_50, or name the layout with k in the input architecture: qwen_scope:50."
        )
    if told is not None and asked is not None and told != asked:
        raise checkpoint.fail(f"architecture: k = {asked} was given, but the folder's name has L0_{told}.")
    return asked or told or 0

"""OpenAI's sparse_autoencoder: one state dict whose entries also name the activation function.

Source: github.com/openai/sparse_autoencoder. TopK SAEs normalise each token; a tied decoder is stored as (F, d).
"""

from __future__ import annotations

from typing import Any

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Reading
from .openai_tensors import BIASES, DECODER, ENCODER, LAST_FIRED, all_but_decoder

CONFIG_NAME = "config.json"
LAYOUTS = "OpenAI"
LAYOUT_NAMES = ("openai",)

_TIED = "decoder.linear.weight"
_STATISTICS = (LAST_FIRED, "latents_activation_frequency", "latents_mean_square")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*BIASES) and isinstance(checkpoint.extras.get("activation"), str)


def read(checkpoint: Checkpoint) -> Reading:
    tied = checkpoint.has(_TIED)
    checkpoint.check_tensors((*BIASES, ENCODER, _TIED if tied else DECODER), LAYOUTS, ignored=_STATISTICS)
    tensors = {
        **all_but_decoder(checkpoint),
        **(checkpoint.stored(decoder=_TIED) if tied else checkpoint.turned(decoder=DECODER)),
    }
    architecture = _architecture(checkpoint)
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}{', tied' if tied else ''}")


def _architecture(checkpoint: Checkpoint) -> Architecture:
    activation = checkpoint.extras.get("activation", "TopK")
    if activation == "TopK":
        # ReLU after the selection, unless the file says otherwise
        after = _entry(checkpoint, "postact_fn") or "ReLU"
        if after not in ("ReLU", "Identity"):
            raise checkpoint.fail(f"activation.postact_fn is {quoted(after)}; known are ReLU and Identity.")
        k = checkpoint.k({"activation.k": _entry(checkpoint, "k")}, "activation.k", "the file")
        return Architecture("topk", k=k, rectify=after == "ReLU", normalization="layer_norm")
    if activation in ("ReLU", "Identity"):
        return Architecture("relu", rectify=activation == "ReLU")
    raise checkpoint.fail(f"its activation is {quoted(activation)}; known are TopK, ReLU and Identity.")


def _entry(checkpoint: Checkpoint, name: str) -> Any:
    state = checkpoint.extras.get("activation_state_dict")
    nested = state.get(name) if isinstance(state, dict) else None
    return checkpoint.extras.get(f"activation.{name}", nested)

"""OpenAI's sparse_autoencoder: one state dict whose entries also name the activation function.

Source: github.com/openai/sparse_autoencoder. TopK SAEs normalise each token; a tied decoder is stored as (F, d).
sdxl-unbox and a fork of RE-N-Y's code took over its tensors' names, without its normalisation.
"""

from __future__ import annotations

from typing import Any

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.quote import quoted
from .checkpoint import Checkpoint, Reading
from .words import Words, words

CONFIG_NAME = "config.json"
LAYOUTS = "OpenAI"
LAYOUT_NAMES = ("openai",)

BIASES = ("pre_bias", "latent_bias")
ENCODER, DECODER = "encoder.weight", "decoder.weight"
_TIED = "decoder.linear.weight"
_LAST_FIRED = "stats_last_nonzero"  # of training, and of no use here
_STATISTICS = (_LAST_FIRED, "latents_activation_frequency", "latents_mean_square")
_IN_FILE = words(LAYOUTS, read="activation activation.k activation.postact_fn activation_state_dict")
_BESIDE = words(LAYOUTS)
_STATE = words(LAYOUTS, read="k postact_fn")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*BIASES) and isinstance(checkpoint.extras.get("activation"), str)


def read(checkpoint: Checkpoint) -> Reading:
    tied = checkpoint.has(_TIED)
    checkpoint.check_tensors((*BIASES, ENCODER, _TIED if tied else DECODER), LAYOUTS, ignored=_STATISTICS)
    tensors = {
        **_all_but_decoder(checkpoint),
        **(checkpoint.stored(decoder=_TIED) if tied else checkpoint.turned(decoder=DECODER)),
    }
    architecture = _architecture(checkpoint)
    notes = _IN_FILE.check(checkpoint, checkpoint.extras, "the file")
    notes += _BESIDE.check(checkpoint, checkpoint.config, CONFIG_NAME)
    state = checkpoint.extras.get("activation_state_dict")
    notes += _STATE.check(checkpoint, state if isinstance(state, dict) else None, "activation_state_dict")
    return Reading(tensors, architecture, f"{LAYOUTS} {architecture.kind}{', tied' if tied else ''}", notes=notes)


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
    """What the file has under either of its two places; ValueError where these differ."""
    state = checkpoint.extras.get("activation_state_dict")
    nested = state.get(name) if isinstance(state, dict) else None
    found = checkpoint.extras.get(f"activation.{name}", nested)
    if nested is not None and found != nested:
        raise checkpoint.fail(f"it has activation.{name} = {quoted(found)} and, in its state, {quoted(nested)}.")
    return found


# The same tensors in other projects' files


def read_topk(
    checkpoint: Checkpoint, known: Words, config_name: str, width: str, count: str, hook: str | None
) -> Reading:
    """A TopK SAE whose k is in the config, or was given; `width` and `count` are what its config calls them.

    Raises ValueError for other tensors and for a config that contradicts them.
    """
    checkpoint.check_tensors((*BIASES, ENCODER, DECODER), known.layout, ignored=(_LAST_FIRED,))
    if checkpoint.config is not None:
        d_in, d_sae = checkpoint.width_and_count(DECODER, transposed=True)
        checkpoint.check_config_shape(checkpoint.config, {width: d_in, count: d_sae}, config_name)
    notes = known.and_read("k", width, count).check(checkpoint, checkpoint.config, config_name)
    k = checkpoint.k(checkpoint.config, "k", config_name)
    tensors = {**_all_but_decoder(checkpoint), **checkpoint.turned(decoder=DECODER)}
    return Reading(tensors, Architecture("topk", k=k), known.layout, hook, notes=notes)


def _all_but_decoder(checkpoint: Checkpoint) -> dict[str, Weight]:
    return {
        **checkpoint.stored(input_bias="pre_bias", output_bias="pre_bias", encoder=ENCODER),
        **checkpoint.stored(encoder_bias="latent_bias"),
    }

"""RE-N-Y's SAEs for FLUX and CLIP: TopK, standard, gated and JumpReLU, in one set of tensor names.

Source: github.com/RE-N-Y/finebooru; files are config.json and model.safetensors. In the config `features` is the
width of the activations and `pages` the number of features.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "RE-N-Y (TopK, standard, gated, JumpReLU)"
HOOK = "hook_name"  # in the header of files that this pack exports
LAYOUT_NAMES = ("reny_topk", "reny_standard", "reny_gated", "reny_jumprelu")

_WORDS = words(LAYOUTS, read="features pages", idle="device")
_LINEAR = ("bias", "encoder.weight", "encoder.bias", "decoder.weight")
_JUMPRELU = (*_LINEAR, "logthres")
_GATED = ("decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight")


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.config is not None and "trainer" in checkpoint.config:
        return False  # dictionary_learning stores the same names
    linear = checkpoint.has("bias") or checkpoint.has("decoder_bias")
    return linear and checkpoint.has("encoder.weight", "decoder.weight")


def read(checkpoint: Checkpoint) -> Reading:
    if "decoder_bias" in checkpoint.header:
        reading = _read_gated(checkpoint)
    elif "logthres" in checkpoint.header:
        reading = _read_jumprelu(checkpoint)
    else:
        reading = _read_linear(checkpoint)
    if checkpoint.config is not None:
        d_in, d_sae = checkpoint.width_and_count("decoder.weight", transposed=True)
        checkpoint.check_config_shape(checkpoint.config, {"features": d_in, "pages": d_sae}, CONFIG_NAME)
    return replace(reading, hook=checkpoint.metadata.get(HOOK))


def _read_linear(checkpoint: Checkpoint) -> Reading:
    """TopK where the config has k; without k the "standard" class, whose codes carry the decoder's norm."""
    checkpoint.check_tensors(_LINEAR, "RE-N-Y TopK or standard")
    config = _config(checkpoint, "a TopK SAE with its k, or a standard one without", ("reny_topk:16", "reny_standard"))
    if checkpoint.asked == "reny_standard" or (checkpoint.asked is None and "k" not in config):
        if checkpoint.asked is None and "sample" in config:
            raise checkpoint.fail(f"{CONFIG_NAME} has sample, as TopK SAEs have, but no k; add the k of its training.")
        if config.get("k") is not None:
            raise checkpoint.fail(f"architecture: reny_standard was given, but {CONFIG_NAME} has k; use reny_topk.")
        notes = _WORDS.check(checkpoint, checkpoint.config, CONFIG_NAME, strict=checkpoint.asked is None)
        return Reading(_linear(checkpoint), Architecture("relu", decoder_norm="after"), "RE-N-Y standard", notes=notes)
    notes = _WORDS.and_read("k", "sample").check(checkpoint, checkpoint.config, CONFIG_NAME)
    if config.get("sample") is not None:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has sample = {quoted(config['sample'])}; only TopK SAEs with null are known."
        )
    k = checkpoint.k(config if checkpoint.config is not None else None, "k", CONFIG_NAME)
    return Reading(_linear(checkpoint), Architecture("topk", k=k), "RE-N-Y TopK", notes=notes)


def _read_jumprelu(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_JUMPRELU, "RE-N-Y JumpReLU")
    threshold = Weight(checkpoint.source, "logthres", transform=torch.exp)
    notes = _WORDS.and_read("bandwidth", "jumpthreshold").check(checkpoint, checkpoint.config, CONFIG_NAME)
    tensors = {**_linear(checkpoint), "threshold": threshold}
    return Reading(tensors, Architecture("jumprelu"), "RE-N-Y JumpReLU", notes=notes)


def _read_gated(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_GATED, "RE-N-Y gated")
    names = ("reny_gated", "dictionary_learning_gated")
    _config(checkpoint, "RE-N-Y's codes, or the different ones of dictionary_learning", names)
    tensors = {
        **checkpoint.stored(gate_bias="gate_bias", magnitude_bias="mag_bias", r_mag="r_mag"),
        **checkpoint.stored(input_bias="decoder_bias", output_bias="decoder_bias", encoder="encoder.weight"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    notes = _WORDS.check(checkpoint, checkpoint.config, CONFIG_NAME)
    return Reading(tensors, Architecture("gated", decoder_norm="after"), "RE-N-Y gated", notes=notes)


def _linear(checkpoint: Checkpoint) -> dict[str, Weight]:
    return {
        **checkpoint.stored(input_bias="bias", output_bias="bias", encoder="encoder.weight"),
        **checkpoint.stored(encoder_bias="encoder.bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }


def _config(checkpoint: Checkpoint, choice: str, names: tuple[str, ...]) -> Config:
    config = checkpoint.config or {}
    if checkpoint.asked is None and not {"features", "pages"} <= set(config):
        raise checkpoint.undecided(choice, CONFIG_NAME, "features, pages and (for TopK) k", names)
    return config

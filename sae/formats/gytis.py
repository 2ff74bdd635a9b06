"""The SAE of CLIP image embeddings that steers Kandinsky 2.2: one state dict, no config, no bias taken off the input.

Source: huggingface.co/gytdau/clip-sae-128.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "Gytis' CLIP SAE"
LAYOUT_NAMES = ("gytis",)

_TENSORS = ("enc_bias", "dec_bias", "encoder.weight", "decoder.weight")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("enc_bias", "dec_bias")


def read(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_TENSORS, LAYOUTS)
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="enc_bias", output_bias="dec_bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    notes = words(LAYOUTS).check(checkpoint, checkpoint.config, CONFIG_NAME)
    return Reading(tensors, Architecture("relu"), LAYOUTS, notes=notes)

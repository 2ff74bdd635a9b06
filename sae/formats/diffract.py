"""DifFRACT's SAEs of FLUX's MLP outputs, whose codes depend on the noise level: sae_{img,txt}_{block}.pt, no config.

Source: github.com/Artalmaz31/DifFRACT. Its transcoders have the same tensors, so only the file's name tells them apart.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from ..dictionary.modulation import TENSORS, Modulation
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "DifFRACT"
LAYOUT_NAMES = ("diffract",)

_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NAME = re.compile(r"(?:^|/)sae_(?P<stream>img|txt)_(?P<block>\d+)(?=\.[a-z]+$)")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("time_mlp.0.weight")


def read(checkpoint: Checkpoint) -> Reading:
    _refuse_transcoder(checkpoint)
    checkpoint.check_tensors((*_TENSORS, *TENSORS), LAYOUTS)
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias", output_bias="decoder.bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    modulation = Modulation({name: checkpoint.source.whole(name).float() for name in TENSORS})
    modulation.check(checkpoint.width_and_count("decoder.weight", transposed=True)[0], checkpoint.label)
    notes = words(LAYOUTS).check(checkpoint, checkpoint.config, CONFIG_NAME)
    return Reading(tensors, Architecture("relu"), LAYOUTS, _hook(checkpoint.label), modulation=modulation, notes=notes)


def _refuse_transcoder(checkpoint: Checkpoint) -> None:
    if checkpoint.asked is not None:
        return
    if "transcoder" in checkpoint.path.name.lower():
        raise checkpoint.fail(
            "this is a transcoder, which predicts another layer's activations; only SAEs, which reconstruct their own "
            "input, are accepted (sae_img_18.pt and the like)."
        )
    if "sae" not in checkpoint.path.name.lower():
        raise checkpoint.fail(
            "DifFRACT's SAEs and transcoders have the same tensors, and this name tells neither; give the file its "
            "published name, such as sae_img_18.pt, or name the layout in the input architecture: diffract."
        )


def _hook(name: str) -> str | None:
    found = _NAME.search(name.replace("\\", "/"))
    return found and f"transformer_blocks.{found['block']}.{'ff' if found['stream'] == 'img' else 'ff_context'}"

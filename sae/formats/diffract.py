"""DifFRACT: SAEs of FLUX's MLP outputs, sae_{img,txt}_{block}.pt, and transcoders of its MLPs, transcoder_....pt.

Source: github.com/Artalmaz31/DifFRACT. Codes depend on the noise level; there is no config. Both have the same tensors,
so only the file's name tells them apart. A transcoder reads what goes into the MLP and predicts what comes out.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from ..dictionary.modulation import TENSORS, Modulation
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "DifFRACT"
_TRANSCODER = "diffract_transcoder"
LAYOUT_NAMES = ("diffract", _TRANSCODER)

_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NAME = re.compile(r"(?:^|/)(?:sae|transcoder)_(?P<stream>img|txt)_(?P<block>\d+)(?=\.[a-z]+$)")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("time_mlp.0.weight")


def read(checkpoint: Checkpoint) -> Reading:
    transcoder = _is_transcoder(checkpoint)
    checkpoint.check_tensors((*_TENSORS, *TENSORS), LAYOUTS)
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias", output_bias="decoder.bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    modulation = Modulation({name: checkpoint.source.whole(name).float() for name in TENSORS})
    modulation.check(checkpoint.width_and_count("decoder.weight", transposed=True)[0], checkpoint.label)
    notes = words(LAYOUTS).check(checkpoint, checkpoint.config, CONFIG_NAME)
    layout = f"{LAYOUTS} transcoder" if transcoder else LAYOUTS
    hook = _hook(checkpoint.label, transcoder)
    return Reading(
        tensors, Architecture("relu"), layout, hook, modulation=modulation, transcoder=transcoder, notes=notes
    )


def _is_transcoder(checkpoint: Checkpoint) -> bool:
    if checkpoint.asked is not None:
        return checkpoint.asked == _TRANSCODER
    name = checkpoint.path.name.lower()
    if "transcoder" not in name and "sae" not in name:
        raise checkpoint.fail(
            "DifFRACT's SAEs and transcoders have the same tensors, and this name tells neither; give the file its "
            f"published name, such as sae_img_18.pt, or name the layout in the input architecture: diffract or "
            f"{_TRANSCODER}."
        )
    return "transcoder" in name


def _hook(name: str, transcoder: bool) -> str | None:
    found = _NAME.search(name.replace("\\", "/"))
    if found is None:
        return None
    module = f"transformer_blocks.{found['block']}.{'ff' if found['stream'] == 'img' else 'ff_context'}"
    return f"{module}.transcoder" if transcoder else module

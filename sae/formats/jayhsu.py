"""The TopK SAEs of a later fork of RE-N-Y's code.

Source: github.com/jayhsu0627/sae; files are config.json (features, pages, k, ...) and model.safetensors. A stream
number in its names counts otherwise than RE-N-Y's: 0 is the image.
"""

from __future__ import annotations

import re

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "jayhsu TopK"
LAYOUT_NAMES = ("jayhsu_topk",)

_TENSORS = ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")
_NUMBERED = re.compile(r"(?<!single_)transformer_blocks\.(?P<block>\d+)-(?P<stream>[01])(?!\d)")


def matches(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config or {}
    return checkpoint.has("pre_bias", "latent_bias") and {"features", "pages"} <= set(config)


def read(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_TENSORS, LAYOUTS, ignored=("stats_last_nonzero",))
    config = checkpoint.config
    if config is not None:
        d_in, d_sae = checkpoint.width_and_count("decoder.weight", transposed=True)
        checkpoint.check_config_shape(config, {"features": d_in, "pages": d_sae}, CONFIG_NAME)
        if config.get("sample") is not None:
            raise checkpoint.fail(
                f"{CONFIG_NAME} has sample = {quoted(config['sample'])}; only SAEs with null are known."
            )
    tensors = {
        **checkpoint.stored(input_bias="pre_bias", output_bias="pre_bias", encoder="encoder.weight"),
        **checkpoint.stored(encoder_bias="latent_bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    k = checkpoint.k(config, "k", CONFIG_NAME)
    return Reading(tensors, Architecture("topk", k=k), LAYOUTS, _hook(checkpoint.label))


def _hook(name: str) -> str | None:
    found = _NUMBERED.search(name)
    return found and f"transformer_blocks.{found['block']}-{'text' if found['stream'] == '1' else 'image'}"

"""The TopK SAEs of a later fork of RE-N-Y's code.

Source: github.com/jayhsu0627/sae; files are config.json (features, pages, k, ...) and model.safetensors. A stream
number in its names counts otherwise than RE-N-Y's: 0 is the image.
"""

from __future__ import annotations

import re

from ..files.quote import quoted
from .checkpoint import Checkpoint, Reading
from .openai import BIASES, read_topk
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "jayhsu TopK"
LAYOUT_NAMES = ("jayhsu_topk",)

_WORDS = words(LAYOUTS, read="sample", idle="auxk dead_steps_threshold")
_NUMBERED = re.compile(r"(?<!single_)transformer_blocks\.(?P<block>\d+)-(?P<stream>[01])(?!\d)")


def matches(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config or {}
    return checkpoint.has(*BIASES) and {"features", "pages"} <= set(config)


def read(checkpoint: Checkpoint) -> Reading:
    sample = (checkpoint.config or {}).get("sample")
    if sample is not None:
        raise checkpoint.fail(f"{CONFIG_NAME} has sample = {quoted(sample)}; only SAEs with null are known.")
    return read_topk(checkpoint, _WORDS, CONFIG_NAME, "features", "pages", _hook(checkpoint.label))


def _hook(name: str) -> str | None:
    found = _NUMBERED.search(name)
    return found and f"transformer_blocks.{found['block']}-{'text' if found['stream'] == '1' else 'image'}"

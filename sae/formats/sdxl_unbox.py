"""sdxl-unbox and the concept steerers: TopK SAEs in a nested state dict, with config.json.

Sources: github.com/surkovv/sdxl-unbox, github.com/kim-dahye/steerers. OpenAI's SAEs have the same tensors, but
normalise each token first.
"""

from __future__ import annotations

import re

from .checkpoint import Checkpoint, Reading
from .openai import BIASES, read_topk
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "sdxl-unbox"
LAYOUT_NAMES = ("sdxl_unbox",)

_WORDS = words(LAYOUTS, idle="bs lr auxk auxk_coef dead_steps_threshold")
_BLOCK = re.compile(r"(?<![a-z_])transformer_blocks\.(\d+)(?![\d.])")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*BIASES) and "activation" not in checkpoint.extras


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config
    if checkpoint.asked is None and (config is None or "k" not in config):
        choice = "sdxl-unbox, or OpenAI's with its normalisation of each token"
        names = ("sdxl_unbox:10", "openai:32")
        raise checkpoint.undecided(choice, CONFIG_NAME, "n_dirs_local, d_model and k", names)
    return read_topk(checkpoint, _WORDS, CONFIG_NAME, "d_model", "n_dirs_local", _hook(checkpoint.label))


def _hook(name: str) -> str | None:
    """FLUX SAEs of this project read the update of the image stream, and their folders name the block alone."""
    found = _BLOCK.search(name)
    return found and f"transformer_blocks.{found[1]}.update-image"

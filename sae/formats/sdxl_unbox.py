"""sdxl-unbox and the concept steerers: TopK SAEs in a nested state dict, with config.json.

Those of sdxl-unbox read what a transformer of SDXL's UNet, or a block of FLUX, adds to its input, and act there.

Sources: github.com/surkovv/sdxl-unbox, github.com/kim-dahye/steerers. OpenAI's SAEs have the same tensors, but
normalise each token first.
"""

from __future__ import annotations

import re

from ..places.unet_lists import IN_NAME
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
    """The update of the image stream: folders name the transformer or block alone, as in mid_block.attentions.0."""
    in_unet = [match for match in IN_NAME.finditer(name) if not match["point"]]
    if in_unet:
        return f"{in_unet[-1]['list']}.{in_unet[-1]['block']}.update"
    found = _BLOCK.search(name)
    return found and f"transformer_blocks.{found[1]}.update-image"

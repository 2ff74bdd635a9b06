"""The list way inside a UNet's transformer block: a function in the list of patches that get an attention's output.

It stands behind those that are there, so that it gets what the block will add: of an attention that another node
computes, with tiles laid together and merged tokens apart again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .placed import Placed

Patch = Callable[[Tensor, Mapping[str, Any]], Tensor]
Key = tuple[str, int, int]  # as core calls a transformer block: the part of the UNet, the number there, the block's

_PARTS = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}


def key_of(path: str, block: int) -> Key:
    """For ComfyUI's path of the transformer that holds the block, such as `input_blocks.8.1`."""
    part, number, *_ = path.split(".")
    return _PARTS[part], 0 if part == "middle_block" else int(number), block


def after_attention(placed: Mapping[Key, Placed]) -> Patch:
    """The function of one tap."""

    @torch.compiler.disable
    def patched(output: Tensor, told: Mapping[str, Any]) -> Tensor:
        part, number = told.get("block") or ("", -1)
        here = placed.get((part, number, told.get("block_index", 0)))
        if here is None:
            return output
        here.enter()
        return here.change(output, here.now(output.shape[1], told))

    return patched

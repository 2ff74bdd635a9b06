"""UNets of ComfyUI: where their transformers are, by the names that core itself knows, and which are left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import comfy.utils
from torch import nn

from ...places.depth import Attention

_LAST = ".norm.weight"  # a weight that every transformer has itself
_VIDEO = "SpatialVideoTransformer"


def attentions_in(network: nn.Module, unet_config: Mapping[str, Any]) -> tuple[Attention, ...]:
    """In the order in which they run. Core's names are kept where there is such a module: distilled UNets lack some."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    pairs = [
        (theirs.removesuffix(_LAST), own.removesuffix(_LAST))
        for theirs, own in names.items()
        if theirs.endswith(_LAST) and ".attentions." in theirs
    ]
    found = ((theirs, own, module_at(network, own)) for theirs, own in pairs)
    return tuple(
        Attention(theirs, own, len(module.transformer_blocks), int(module.in_channels))
        for theirs, own, module in found
        if module is not None
    )


def module_at(network: nn.Module, path: str) -> Any:
    """None where there is none."""
    found: Any = network
    return reduce(lambda module, name: getattr(module, name, None), path.split("."), found)


def left_out(network: nn.Module) -> str:
    """Why a UNet is none of the families, where that is known; empty for any other network."""
    if any(type(module).__name__ == _VIDEO for module in network.modules()):
        return ", a video UNet, whose blocks mix its frames"
    return ""

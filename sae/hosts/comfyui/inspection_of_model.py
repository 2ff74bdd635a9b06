"""What a connected MODEL offers to steering: its family, places and sizes, and what already sits there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher as Model
from torch import nn

from ...places.families import Way
from .model import depth_of, family_of, host_warnings, network_width, patch_of, step_caches, transformer_of, whose
from .runs import COMPILE_KEY, KEY
from .ways.inside import is_compiled

_WAYS: dict[Way, str] = {
    "slot": "the block's slot, on top of what sits in it",
    "list": "the list of patches after each block, behind those that are there",
    "hook": "a forward hook on the block, for the length of one call",
}


def offer_of(model: Model) -> str:
    """Several lines; ValueError, with the families that are known, for a model of another."""
    return "\n".join(f"{name}: {text}" for name, text in _lines(model))


def _lines(model: Model) -> Iterator[tuple[str, str]]:
    family, network = family_of(model), transformer_of(model)
    frames, patch = patch_of(family, network)
    yield "Family", f"{family.name} ({type(model.model).__name__})"
    depth = depth_of(model)
    if family.is_unet:
        yield "Width", ", ".join(map(str, sorted({one.width for one in depth.attentions}))) + ", by the place"
    else:
        yield "Width", str(network_width(model))
    for text in family.offers(depth):
        yield "Places", text
    if family.is_unet:
        yield "Token", "each place has a grid of its own, row by row"
        yield "ComfyUI's names", ", ".join(f"{one.path} = {one.comfyui}" for one in depth.attentions)
    else:
        yield "Token", f"{patch}×{patch} latent cells" + (f", {frames} frames" if frames > 1 else "")
    for stack in family.stacks:
        yield "Reached by", f"{stack.comfyui or stack.kind}: {_WAYS[stack.way]}"
    options: Mapping[str, Any] = model.model_options.get("transformer_options", {})
    yield "In the slots", _joined(_in_slots(options))
    yield "In the lists", _joined(_in_lists(options))
    yield "Steered or read by this pack", _joined(_own(model))
    yield "Step caches", _joined(step_caches(model))
    yield "Compiled", "yes" if _compiled(model, network) else "no"
    for warning in host_warnings(model):
        yield "Take care", warning


def _compiled(model: Model, network: nn.Module) -> bool:
    """The whole network, or single blocks of it."""
    whole = any(COMPILE_KEY in keys for keys in model.wrappers.values())
    modules = (network, *model.object_patches.values(), *network.modules())
    return whole or any(map(is_compiled, modules))


def _in_slots(options: Mapping[str, Any]) -> list[str]:
    slots = options.get("patches_replace", {}).get("dit", {})
    return [f"{' '.join(map(str, key))} ({whose(patch)})" for key, patch in slots.items()]


def _in_lists(options: Mapping[str, Any]) -> list[str]:
    return [f"{name} ({whose(patch)})" for name, found in options.get("patches", {}).items() for patch in found]


def _own(model: Model) -> list[str]:
    """How many nodes; one wrapper of each kind stands for one place."""
    count = max((len(keys.get(KEY, ())) for keys in model.wrappers.values()), default=0)
    return [f"{count} place{'s' if count > 1 else ''}"] if count else []


def _joined(found: list[str]) -> str:
    return ", ".join(found) or "none"

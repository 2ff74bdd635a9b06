"""Modules that ComfyUI loads, offloads and frees beside its own models."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import nn


class Held(nn.Module):
    """A module of another library, whose own `device` ComfyUI cannot write."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def patcher_of(module: nn.Module, handles: MutableMapping[Any, Any], name: Any) -> ModelPatcher:
    """The module's one ModelPatcher, kept in `handles`: ComfyUI takes a module that outlives it for a leak."""
    if name not in handles:
        devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        foreign = isinstance(getattr(type(module), "device", None), property)
        handles[name] = ModelPatcher(Held(module) if foreign else module, *devices)
    return handles[name]

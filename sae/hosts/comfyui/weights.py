"""Modules that ComfyUI loads, offloads and frees beside its own models."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn


class Held(nn.Module):
    """A module of another library: ComfyUI cannot write its `device`, nor load only a part of its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def patcher_of(module: nn.Module, handles: MutableMapping[Any, Any], name: Any) -> ModelPatcher:
    """The module's one ModelPatcher, kept in `handles`: ComfyUI takes a module that outlives it for a leak."""
    if name not in handles:
        devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        handles.setdefault(name, ModelPatcher(module, *devices))  # the first of two threads' stays
    return handles[name]


def load_whole(modules: Mapping[str, nn.Module], handles: MutableMapping[Any, Any], memory: float) -> None:
    """Loads other libraries' modules, each as a whole, with `memory` bytes beside them; ComfyUI frees what it must.

    Where nothing may stay on the GPU (--novram) they are computed on the CPU.
    """
    state = comfy.model_management.vram_state
    device = comfy.model_management.get_torch_device()
    if state == comfy.model_management.VRAMState.NO_VRAM:
        device = torch.device("cpu")
    for name, module in modules.items():
        if name not in handles:
            handles[name] = ModelPatcher(Held(module), device, comfy.model_management.unet_offload_device())
    patchers = [handles[name] for name in modules]
    comfy.model_management.load_models_gpu(patchers, memory_required=memory, force_full_load=True)

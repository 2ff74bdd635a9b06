"""Modules that ComfyUI loads, offloads and frees beside its own models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from math import prod
from typing import Any, ParamSpec, TypeVar

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_patcher import ModelPatcher as Model
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


SPARE = 1.5  # of the estimate, as core asks for when it batches prompts
MOST_RUNS = 32
ENOUGH = 128 * 128  # cells of latents in a call, a picture of 1024 × 1024 in FLUX.1, that keep a device busy


def rows_within(model: Model, shape: Sequence[int], most: int, loading: float = 0.0) -> int:
    """As many rows of latents (..., *shape) as the memory that is free now has room for, by the model's own estimate.

    It is 1 where there is none. `loading` are bytes that will be taken before the rows are.
    """
    free = comfy.model_management.get_free_memory(model.load_device) - loading
    fit = [rows for rows in range(2, most + 1) if model.memory_required([rows, *shape]) * SPARE < free]
    return max(fit, default=1)


def runs_at_once(model: Model, shape: Sequence[int]) -> int:
    """How many runs of latents (batch, channels, ...) to draw in one, at least 1.

    A model that other nodes have wrapped or patched runs for one at a time: what they do with a batch, such as to
    skip steps by what all of it does, is theirs.
    """
    batch, *rest = shape
    runs = min(MOST_RUNS, ENOUGH // max(1, batch * prod(rest[1:])))
    if runs < 2 or _wrapped(model):
        return 1
    loading = max(0, model.model_size() - model.loaded_size())
    return max(1, rows_within(model, rest, runs * batch, loading) // batch)


def make_room(needed: int) -> tuple[torch.device, int]:
    """The device that ComfyUI computes on, models moved away for `needed` bytes, and the bytes free there then."""
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(needed, device)
    return device, int(comfy.model_management.get_free_memory(device))


LOOKING_ON = "sae_steering_looking_on"  # the key of wrappers that change nothing, whatever the batch


def _wrapped(model: Model) -> bool:
    options = {**model.model_options}
    wrappers = [found for by_key in model.wrappers.values() for key, found in by_key.items() if key != LOOKING_ON]
    return any([*options.pop("transformer_options", {}).values(), *options.values(), *wrappers])


P = ParamSpec("P")
R = TypeVar("R")

RECORDER = "comfy.model_prefetch"  # where it records, core has loaded this; not imported here, for it may not import


def unrecorded() -> AbstractContextManager[Any]:
    """Inside of it, tensors may be allocated that outlive the block under way."""
    pause = getattr(sys.modules.get(RECORDER), "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()


def without_record(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called with core's record paused."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with unrecorded():
            return function(*args, **kwargs)

    return call

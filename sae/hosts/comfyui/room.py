"""What there is memory for: how many runs of a MODEL go into one batch, and what is no model of ComfyUI's."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher as Model

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


def _wrapped(model: Model) -> bool:
    options = {**model.model_options}
    return any([*options.pop("transformer_options", {}).values(), *options.values(), *model.wrappers.values()])

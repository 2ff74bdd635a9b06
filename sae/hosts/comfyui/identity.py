"""Which model a MODEL is, weights and LoRA included: what was measured on one does not hold on another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...known.ranges import Setting, setting_of
from ...places.site import Site
from ...steering.edits import Edit

SAMPLED = 64  # values of each weight
DIGITS = 16
_COMPILED = "._orig_mod"  # torch.compile's addition to the names of the weights


def identity_of(model: Model) -> str:
    """The network's class and 16 hexadecimal digits, such as `Flux-0123456789abcdef`; a tenth of a second for a FLUX.

    Hashed are name, shape and a few values of every weight as it was loaded, and the applied patches (LoRA, merges)
    with their strengths. A clone has the same identity, and so has the same file loaded again, in bf16 or fp32. Patches
    of a kind that cannot be looked into count as the same as long as ComfyUI runs.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.model.named_parameters()):
        kept = model.backup.get(name)  # the weight itself has the LoRA of whichever clone was loaded last
        digest.update(name.replace(_COMPILED, "").encode())
        for piece in _of_tensor(weight if kept is None else kept.weight):
            digest.update(piece)
    for patches in (model.patches, model.weight_wrapper_patches, getattr(model, "injections", {})):
        for piece in _of_value(patches):
            digest.update(piece)
    network = getattr(model.model, "diffusion_model", model.model)  # a text encoder has none
    return f"{type(network).__name__}-{digest.hexdigest()[:DIGITS]}"


def setting_here(model: Model, site: Site, replaces: Sequence[Edit] | None = None) -> Setting:
    """As `setting_of`, for a MODEL."""
    return setting_of(site, identity_of(model), replaces)


def _of_tensor(tensor: Tensor) -> Iterator[bytes]:
    """Shape, and the beginning of the middle row in bf16, which the type that a weight was loaded in seldom changes."""
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: a wrapper around its parts
        for name in tensor.__tensor_flatten__()[0]:
            yield from _of_tensor(getattr(tensor, name))
        return
    row = tensor.detach().as_subclass(Tensor)  # GGUF's own type tells another shape than it stores
    yield str(list(row.shape)).encode()
    while row.ndim > 1 and row.numel():
        row = row[len(row) // 2]
    yield row.reshape(-1)[:SAMPLED].to(torch.bfloat16).cpu().view(torch.uint8).numpy().tobytes()


def _of_value(value: Any) -> Iterator[bytes]:
    """A patch as ComfyUI keeps them: numbers, tensors, adapters with `weights`, in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r};".encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            yield from _of_value(value[key])
    elif isinstance(value, (tuple, list)):
        yield f"{len(value)}[".encode()
        for part in value:
            yield from _of_value(part)
    else:
        yield from _of_object(value)


def _of_object(value: Any) -> Iterator[bytes]:
    if isinstance(value, FunctionType) and not value.__closure__:
        yield f"{value.__module__}.{value.__qualname__};".encode()
        return
    yield f"{type(value).__name__};".encode()
    if hasattr(value, "weights"):  # an adapter: LoRA, LoHa, LoKr and their like
        yield from _of_value(value.weights)
    else:
        yield f"{id(value)};".encode()

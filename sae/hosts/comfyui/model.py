"""What a MODEL of ComfyUI is: whether it can be steered, how deep and wide it is, and what may leave patches out."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher as Model
from torch import nn

from ...dictionary.directions import Directions
from ...places.site import Depth, Site


def transformer_of(model: Model) -> nn.Module:
    """The FLUX inside a MODEL; ValueError names what came where it is none, or one that ignores patches."""
    transformer = model.get_model_object("diffusion_model")
    name = type(transformer).__name__
    if "nunchaku" in (type(transformer).__module__ + name).lower():
        raise ValueError("model: it is a nunchaku FLUX, which ignores patches; load FLUX with core's UNETLoader.")
    parts = ("double_blocks", "single_blocks", "hidden_size", "patch_size")
    # HunyuanVideo has these parts too, but its patches have three sides and its tokens lie otherwise.
    if not all(hasattr(transformer, part) for part in parts) or not isinstance(transformer.patch_size, int):
        raise ValueError(f"model: it is a {name}, but steering works inside FLUX models only; connect a FLUX model.")
    return transformer


def depth_of(model: Model) -> Depth:
    transformer: Any = transformer_of(model)
    return Depth(len(transformer.double_blocks), len(transformer.single_blocks))


def check_fit(model: Model, sae: Directions, site: Site) -> None:
    """Raises ValueError where the model lacks the site or its width is not the SAE's."""
    site.check(depth_of(model))
    width = transformer_of(model).hidden_size
    if width != sae.d_in:
        raise ValueError(
            f"sae: {sae.name} was trained on activations of width {sae.d_in}, but this model's blocks have width "
            f"{width}; use an SAE that was trained on this model."
        )


def host_warnings(model: Model) -> list[str]:
    """Known ways in which a MODEL may leave patches out."""
    found = []
    transformer = transformer_of(model)
    if _has_foreign_forward(model, transformer):
        found.append("Another node replaced this model's forward pass; it may leave steering out.")
    if any("cache" in str(key).lower() for key in model.model_options.get("transformer_options", {})):
        found.append("A step cache is active on this model; the steps that it skips are not steered.")
    return found


def _has_foreign_forward(model: Model, transformer: nn.Module) -> bool:
    """Whether somebody replaced `forward_orig`: on the class, on the instance or by an object patch."""
    own = getattr(getattr(type(transformer), "forward_orig", None), "__module__", "comfy.")
    patched = any("forward_orig" in key for key in model.object_patches)
    return patched or "forward_orig" in vars(transformer) or not own.startswith("comfy.")

"""One call of ComfyUI's model as a Moment: noise level, sides, and how its tokens lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...places.families import Family
from ...places.moment import Moment
from ...places.region import PATCH
from .areas import crops_of
from .model import patch_of
from .sides import sides_of


def moment_of(
    x: Tensor, t: Tensor, context: Tensor | None, options: Mapping[str, Any], family: Family, network: Any,
    given: Mapping[str, Any],
) -> Moment:  # fmt: skip
    """`x` is the latent, (batch, channels, height, width) or with frames before the height; `given` the keywords.

    A Moment counts in cells of half a token; the model's patch is 2 latent cells in FLUX.1 and 1 in FLUX.2.
    """
    frames_each, patch = patch_of(family, network)
    height, width = (-(-side * PATCH // patch) for side in x.shape[-2:])
    frames = -(-x.shape[2] // frames_each) if x.ndim == 5 else 1
    sides = sides_of(len(x), options)
    text_tokens = 0 if context is None else context.shape[1]
    lead = lead_tokens(family, network, given)
    crops = crops_of(x, options, patch, len(sides))
    return Moment(float(t.flatten()[0]), sides, text_tokens, height, width, crops, frames, lead)


def lead_tokens(family: Family, network: Any, given: Mapping[str, Any]) -> int:
    """Tokens of reference pictures that the model lays before the main one."""
    if family.lead == "reference":
        reference = given.get("reference_latent")
        if reference is None or getattr(network, "ref_conv", None) is None:
            return 0
        patch = patch_of(family, network)[1]
        return (reference.shape[-2] // patch) * (reference.shape[-1] // patch)
    if family.lead == "first":
        return _tokens_in(given.get("ref_latent"), *patch_of(family, network))
    references = given.get("ref_latents") or ()
    if family.lead == "none" or not references:
        return 0
    multiple = getattr(network, family.padded_to) if family.padded_to else 1
    patch = patch_of(family, network)[1]

    def filled(tokens: int) -> int:
        return -(-tokens // multiple) * multiple

    pictures = sum(filled((latent.shape[-2] // patch) * (latent.shape[-1] // patch)) for latent in references)
    if getattr(network, "siglip_embedder", None) is None:
        return pictures
    # Beside each reference lie what an encoder saw of it, (batch, rows, columns, width), or tokens that stand for none.
    seen = list(given.get("siglip_feats") or ())[: len(references)]
    encoded = sum(filled(found.shape[1] * found.shape[2]) for found in seen)
    return pictures + encoded + multiple * (len(references) - len(seen) + 1)


def _tokens_in(latent: Any, frames: int, cells: int) -> int:
    """Of a latent (batch, channels, frames, rows, columns), where there is one."""
    if latent is None:
        return 0
    count, rows, columns = latent.shape[-3:]
    return (count // frames) * (rows // cells) * (columns // cells)

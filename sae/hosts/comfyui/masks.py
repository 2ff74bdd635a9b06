"""Whether a mask lies over the pictures of a sampling run: told as the run begins, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Model
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...places.region import check_mask, moment_weights
from .calls import moment_of
from .model import family_of

KEY = "sae_steering_mask"


def mask_fault(model: Model, mask: Tensor, latent: Tensor) -> str:
    """Why the mask cannot be laid over pictures of this latent, in a sentence; empty where it can.

    `latent` is (batch, channels, height, width), or with frames before the height.
    """
    network = model.get_model_object("diffusion_model")
    try:
        moment = moment_of(latent, torch.zeros(1), None, {}, family_of(model), network, {})
        moment_weights(check_mask(mask), moment, latent.shape[0])
    except ValueError as error:
        return str(error)
    return ""


def with_mask_check(model: Model, mask: Tensor, who: str, tell: Callable[[str], None]) -> Model:
    """A clone whose sampling runs end before their first step where the mask does not lie over their pictures.

    The sentence of the ValueError begins with `who` gave the mask; `tell` hears it first.
    """
    clone = model.clone()

    def run_sampling(executor: Any, *args: Any, **kwargs: Any) -> Any:
        fault = mask_fault(model, mask, args[0] if args else kwargs["noise"])
        if fault:
            tell(fault)
            raise ValueError(f"{who}: {fault}")
        return executor(*args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run_sampling)
    return clone

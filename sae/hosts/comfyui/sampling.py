"""Sampling inside ComfyUI, as KSampler does it, and single looks at a finished picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """What KSampler is told beside model, prompts and latent; by default a short sampling without guidance."""

    seed: int
    steps: int
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    denoise: float = 1.0


def sample(
    model: Model, positive: Any, latent: dict[str, Any], how: Sampling, callback: Callable[..., None],
    negative: Any = None,
) -> Tensor:  # fmt: skip
    """Samples as KSampler does; the final latent."""
    image = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = comfy.sample.prepare_noise(image, how.seed, latent.get("batch_index"))
    # fmt: off
    return comfy.sample.sample(
        model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive,
        positive if negative is None else negative, image, denoise=how.denoise,
        noise_mask=latent.get("noise_mask"), callback=callback, disable_pbar=True, seed=how.seed,
    )
    # fmt: on


def look(
    model: Model, positive: Any, latent: dict[str, Any], seed: int, percent: float, steps: int,
    callback: Callable[..., None],
) -> None:  # fmt: skip
    """Calls the model, without guidance, on a finished latent noised back to a part of the run (0 is pure noise).

    One step is one call at that noise level; more are Euler steps from there to the end.
    """
    if not 0 <= percent < 1:
        raise ValueError(
            f"percent: {percent:g} came; give a part of the run from 0 (pure noise) to below 1 (finished)."
        )
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    sigmas = [float(to_sigma(percent + (1 - percent) * step / steps)) for step in range(steps)]
    # fmt: off
    comfy.sample.sample_custom(
        model, comfy.sample.prepare_noise(image, seed, latent.get("batch_index")), 1.0,
        comfy.samplers.sampler_object("euler"), torch.tensor([*sigmas, 0.0]), positive, positive, image,
        callback=callback, disable_pbar=True, seed=seed,
    )
    # fmt: on

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

from ...steering.host_calls import Level

STEADY = ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep", "ddim")


@dataclass(frozen=True)
class Sampling:
    """What KSampler is told beside model, prompts and latent; by default a short sampling without guidance."""

    seed: int
    steps: int
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    denoise: float = 1.0

    @property
    def steady(self) -> bool:
        """Whether what a picture becomes is the same in any batch: no noise is drawn on the way, no step is chosen."""
        return self.sampler in STEADY


def sample(
    model: Model, positive: Any, latent: dict[str, Any], how: Sampling, callback: Callable[..., None],
    negative: Any = None, runs: int = 1,
) -> Tensor:  # fmt: skip
    """Samples as KSampler does; the final latent. Several runs, from the same noise, stand one behind the other."""
    image = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = comfy.sample.prepare_noise(image, how.seed, latent.get("batch_index"))
    if runs > 1:
        image, noise = (tensor.repeat(runs, *[1] * (tensor.ndim - 1)) for tensor in (image, noise))
    # fmt: off
    return comfy.sample.sample(
        model, noise, how.steps, how.cfg, how.sampler, how.scheduler, positive,
        positive if negative is None else negative, image, denoise=how.denoise,
        noise_mask=latent.get("noise_mask"), callback=callback, disable_pbar=True, seed=how.seed,
    )
    # fmt: on


def sigmas_of(model: Model, how: Sampling) -> Tensor:
    """The noise levels of the steps of `sample`, (steps + 1,), the last one where the run ends."""
    sampler = comfy.samplers.KSampler(
        model, how.steps, model.load_device, how.sampler, how.scheduler, how.denoise, model.model_options
    )
    return sampler.sigmas


def call_once(model: Model, positive: Any, latent: dict[str, Any], how: Sampling, level: Level, rows: int) -> Tensor:
    """One call of the model at a level of `sample`, without guidance: the picture it predicts in each row, (rows, ...).

    It goes the way of any sampling run, through the model's wrappers and patches. `latent` has one picture.
    """
    image = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = comfy.sample.prepare_noise(image, how.seed, latent.get("batch_index"))
    sigmas, predicted = sigmas_of(model, how), []

    def sampler(call: Any, x: Tensor, *ignored: Any, extra_args: dict[str, Any], **more: Any) -> Tensor:
        start = level.latent.to(x).expand_as(x).contiguous()
        predicted.append(call(start, x.new_full((rows,), level.sigma), **extra_args))
        return x

    repeated = [tensor.expand(rows, *tensor.shape[1:]).contiguous() for tensor in (noise, image)]
    # fmt: off
    comfy.sample.sample_custom(
        model, repeated[0], 1.0, comfy.samplers.KSAMPLER(sampler), sigmas, positive, positive, repeated[1],
        noise_mask=latent.get("noise_mask"), disable_pbar=True, seed=how.seed,
    )
    # fmt: on
    return predicted[0]


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

"""A MODEL at work on prompts, as `sae/training/source.py` asks for it: short samplings of which every call is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...files.small_json import digest_of
from ...places.moment import Moment, OnStep
from ...places.reach import Reach
from ...places.site import Site
from ...places.stream_taps import Observer, Tap
from ...steering.host_calls import Level
from .drawing import first_of_batch, heard, joined, keeping, shapes_of
from .memory import rows_within
from .model import depth_of, family_of, identity_of
from .sampling import Sampling, call_once, sample
from .steering import observe, with_tap

KEPT = 256  # encoded prompts; of T5 some 8 MB each
FEWEST_OUTPUTS, MOST_OUTPUTS = 4, 32  # prompts whose outputs are compared in one call
SEEDS = 2**48  # of noises


class Activity:
    """Runs one prompt after the other, without guidance, each time from new noise.

    The first call of a run is on pure noise, as in any sampling; each of the others is at a noise level that is drawn
    evenly from its equal part of the run. Every picture of the latent's batch is drawn for the same prompt.
    """

    def __init__(
        self, model: Model, clip: Any, prompts: Sequence[str], latent: dict[str, Any], steps: int, on_step: OnStep
    ) -> None:
        """`on_step` hears of every call of the model and may raise to cancel. ValueError without prompts."""
        if not prompts:
            raise ValueError("prompts: there are none to draw; give a prompt a line.")
        self.model, self.clip, self.prompts, self.latent = model, clip, list(prompts), latent
        self.steps, self.on_step = steps, on_step
        self._taps: list[Observer] = []
        self._encoded: dict[int, Any] = {}

    @cached_property
    def about(self) -> dict[str, str | int | float]:
        shape = "×".join(map(str, self.latent["samples"].shape))
        return {
            "family": family_of(self.model).name, "model": identity_of(self.model), "prompts": len(self.prompts),
            "digest of prompts": digest_of(self.prompts), "sampling steps": self.steps, "latent": shape,
        }  # fmt: skip

    def place(self, site: Site) -> Site:
        """The site as the model's family calls it; ValueError where there is no such place."""
        return family_of(self.model).place(site, depth_of(self.model))

    @contextmanager
    def observe(self, site: Site, see: Callable[[Tensor, Moment], None]) -> Iterator[None]:
        """Shows `see` the tokens of a site at every call of the model in the block."""
        tap = Observer(site, see)
        self._taps.append(tap)
        try:
            yield
        finally:
            self._taps.remove(tap)

    def run(self, number: int, seed: int) -> Sequence[int]:
        """Samples prompt `number` of the list, which begins anew after its end; its number for each picture."""
        prompt = number % len(self.prompts)
        mixed = (seed * 1_000_003 + number) % SEEDS
        model = self.model
        for tap in self._taps:
            model = observe(model, tap.site, tap.see, None)
        with torch.inference_mode():
            self._sample(model, self._conditioning(prompt), mixed)
        return [prompt] * len(self.latent["samples"])

    def outputs(self, taps: Sequence[Tap]) -> Tensor:
        """What it predicts for prompts of the list, all from one noisy latent of a run, in one call."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        model = self.model
        for tap in taps:
            model = with_tap(model, tap, None, Reach.check)
        conditioning, rows = self._compared
        with torch.inference_mode():
            return call_once(
                model, conditioning, first_of_batch(self.latent), Sampling(0, self.steps), self._level, rows
            )

    @property
    def compared_alike(self) -> bool:
        """Whether `outputs` has prompts enough to tell what a feature goes with."""
        return self._compared[1] >= FEWEST_OUTPUTS

    def levels(self, seed: int) -> list[float]:
        """Noise levels of a run, descending to 0."""
        sampling = self.model.get_model_object("model_sampling")
        drawn = torch.rand(self.steps, generator=torch.Generator().manual_seed(seed)).tolist()
        parts = [0.0, *((part + drawn[part]) / self.steps for part in range(1, self.steps))]
        return [*(min(float(sampling.percent_to_sigma(part)), float(sampling.sigma_max)) for part in parts), 0.0]

    def _sample(self, model: Model, positive: Any, seed: int) -> None:
        latent = self.latent
        image = comfy.sample.fix_empty_latent_channels(
            model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
        )
        # fmt: off
        comfy.sample.sample_custom(
            model, comfy.sample.prepare_noise(image, seed), 1.0, comfy.samplers.sampler_object("euler"),
            torch.tensor(self.levels(seed)), positive, positive, image, noise_mask=latent.get("noise_mask"),
            callback=heard(self._called), disable_pbar=True, seed=seed,
        )
        # fmt: on

    def _called(self, share: float, preview: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar asks only now and then
        self.on_step(share, preview)

    def _conditioning(self, prompt: int) -> Any:
        if prompt not in self._encoded:
            while len(self._encoded) >= KEPT:
                del self._encoded[next(iter(self._encoded))]
            tokens = self.clip.tokenize(self.prompts[prompt])
            self._encoded[prompt] = self.clip.encode_from_tokens_scheduled(tokens)
        return self._encoded[prompt]

    @cached_property
    def _level(self) -> Level:
        """Of the first prompt's run, after its first step."""
        levels: list[Level] = []
        how = Sampling(0, self.steps)
        first = first_of_batch(self.latent)
        callback = keeping(self.model, how, [min(1, self.steps - 1)], levels, heard(self._called))
        with torch.inference_mode():
            sample(self.model, self._conditioning(0), first, how, callback)
        return levels[0]

    @cached_property
    def _compared(self) -> tuple[Any, int]:
        """Prompts as one conditioning, as many as there is memory for: those that are as long as the first one."""
        most = rows_within(self.model, self._level.latent.shape[1:], MOST_OUTPUTS)
        with torch.inference_mode():
            first = self._conditioning(0)[0]
            every = [self._conditioning(place)[0] for place in range(min(len(self.prompts), MOST_OUTPUTS))]
            alike = [one for one in every if shapes_of([one]) == shapes_of([first])][:most]
            return joined([[one] for one in alike]), len(alike)

"""Steering and reading FLUX inside ComfyUI.

A steered model is a clone with three wrappers. OUTER_SAMPLE opens and closes a run: its record, its caches, its report.
CALC_COND_BATCH reads the areas of the prompts. APPLY_MODEL composes the taps for one call of the model, on a copy of
that call's `transformer_options`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
from comfy.model_patcher import ModelPatcher as Model
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...dictionary.weights import PartName
from ...places.moment import COND, Moment, Schedule, SigmaWindow
from ...places.reach import Reach
from ...places.region import PATCH
from ...places.site import Site
from ...places.taps import Observer, Tap
from ...steering.control import RandomDirection
from ...steering.intervention import Intervention
from ...steering.record import RunSummary, SteeringRecord
from .areas import AREAS_KEY, PICTURE_KEY, Areas, crops_of, size_of
from .blocks import with_taps
from .model import check_fit
from .weights import patcher_of

KEY = "sae_steering"
COMPILE_KEY = "torch.compile"  # the key under which core's TorchCompileModel adds its APPLY_MODEL wrapper

Report = Callable[[RunSummary], None]
log = logging.getLogger(__name__)


def steer(
    model: Model, intervention: Intervention, report: Report | None, random_direction: int | None = None
) -> Model:
    """A clone of the model that is steered; `report` hears the summary after each sampling run.

    With `random_direction` each Δ keeps its length but points along one random direction, drawn from that seed.
    """
    check_fit(model, intervention.steering.sae, intervention.site)
    steered = model.clone()
    token = object()

    def open_tap(run: _Run) -> Tap:
        tap = intervention.begin(run.record, run.window(intervention.schedule))
        return tap if random_direction is None else RandomDirection(tap, random_direction)

    _wrap(steered, token, open_tap, report)
    if isinstance(intervention.steering.sae, SparseAutoencoder):
        _manage_weights(steered, intervention.steering.sae, sorted(intervention.steering.reads))
    return steered


def observe(
    model: Model, site: Site, see: Callable[[Tensor, Moment], None], sae: SparseAutoencoder,
    after: Callable[[Reach], None] | None = None,
) -> Model:  # fmt: skip
    """A clone of the model that shows `see` the tokens of a site at each call, with the SAE's encoder loaded.

    A run that never reaches the site ends with a ValueError; `after` decides instead, where it is given.
    """
    check_fit(model, sae, site)
    observed = model.clone()
    _wrap(observed, object(), lambda run: Observer(site, see), None, after or _check_reading)
    _manage_weights(observed, sae, ["encoder"])
    return observed


def _check_reading(reach: Reach) -> None:
    reach.check()
    for sentence in reach.missed("read"):
        log.warning("%s", sentence)


@dataclass
class _Run:
    """One sampling run: its record and the noise schedule of the model as it is sampled."""

    record: SteeringRecord
    model_sampling: Any

    def window(self, schedule: Schedule) -> SigmaWindow:
        """From 0 and to 1 mean from before the first and to after the last step."""
        start, end = float("inf"), -float("inf")
        if schedule.start_percent > 0:
            start = float(self.model_sampling.percent_to_sigma(schedule.start_percent))
        if schedule.end_percent < 1:
            end = float(self.model_sampling.percent_to_sigma(schedule.end_percent))
        return SigmaWindow(start, end)

    def open(self, open_tap: Callable[[_Run], Tap]) -> _Open:
        tap = open_tap(self)
        reach = Reach(tap.site)
        self.record.reaches.append(reach)
        return _Open(tap, reach)


@dataclass(frozen=True)
class _Open:
    """A tap in one run, and how far it came."""

    tap: Tap
    reach: Reach


def _wrap(
    model: Model, token: object, open_tap: Callable[[_Run], Tap], report: Report | None,
    after: Callable[[Reach], None] | None = None,
) -> None:  # fmt: skip
    """Adds the three wrappers; the open tap travels in the run's own `transformer_options`, under `token`.

    `report` hears of every run, `after` of those that came to their end.
    """

    def run_sampling(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        before = guider.model_options
        run = _Run(SteeringRecord(), guider.model_patcher.get_model_object("model_sampling"))
        guider.model_options = comfy.model_patcher.create_model_options_clone(before)
        options = guider.model_options.setdefault("transformer_options", {})
        opened = run.open(open_tap)
        options[KEY] = {**options.get(KEY, {}), token: opened}
        options[PICTURE_KEY] = size_of(args[0] if args else kwargs["noise"])
        try:
            out = executor(*args, **kwargs)
        finally:
            guider.model_options = before
            if report is not None:
                report(run.record.summary())
        if after is not None:
            after(opened.reach)
        return out

    def calculate_batch(
        executor: Any, model: Any, conds: Any, x: Tensor, t: Tensor, model_options: dict[str, Any], **kwargs: Any
    ) -> Any:
        options = {**model_options.get("transformer_options", {}), AREAS_KEY: Areas.of(conds, x)}
        return executor(model, conds, x, t, {**model_options, "transformer_options": options}, **kwargs)

    def apply_model(
        executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        base = executor.class_obj
        options = transformer_options or {}
        opened = options.get(KEY, {}).get(token)
        if opened is None:  # called outside a sampling run
            opened = _Run(SteeringRecord(), base.model_sampling).open(open_tap)
        moment = _moment(x, t, c_crossattn, options, base.diffusion_model.patch_size)
        opened.tap.ready(x.shape[0], moment, x.device)
        options = with_taps(options, base.diffusion_model, [opened.tap], moment, opened.reach)
        if COMPILE_KEY in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
            # Compiled models have no guard on transformer_options; a keyword that names the slots in use is noticed.
            kwargs[KEY] = str(sorted(options["patches_replace"]["dit"]))
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        opened.reach.call()
        return out

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run_sampling)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, calculate_batch)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)


def _moment(x: Tensor, t: Tensor, context: Tensor | None, options: dict[str, Any], patch: int) -> Moment:
    """A Moment counts in cells of half a token; `patch` is the latent cells of a token: 2 in FLUX.1, 1 in FLUX.2."""
    height, width = (-(-side * PATCH // patch) for side in x.shape[-2:])
    sides = tuple(options.get("cond_or_uncond") or (COND,))
    text_tokens = 0 if context is None else context.shape[1]
    return Moment(float(t.flatten()[0]), sides, text_tokens, height, width, crops_of(x, options, patch))


def _manage_weights(model: Model, sae: SparseAutoencoder, parts: Sequence[PartName]) -> None:
    """Lets ComfyUI load and offload the parts of the SAE that are computed with, beside the model."""
    known = model.get_additional_models_with_key(KEY)
    managed = {id(patcher.model) for patcher in known}
    patchers = [patcher_of(sae.part(part), sae.weights.handles, part) for part in parts]
    fresh = [patcher for patcher in patchers if id(patcher.model) not in managed]
    if fresh:
        model.set_additional_models(KEY, [*known, *fresh])

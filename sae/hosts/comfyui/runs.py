"""Sampling runs of a model with taps: what follows them from beginning to end.

A model with taps is a clone with three wrappers. OUTER_SAMPLE opens and closes a run: its record, its caches, its
report. CALC_COND_BATCH reads sides and areas of the prompts. APPLY_MODEL composes the taps for one call of the model,
on a copy of that call's `transformer_options`. A fourth, PREDICT_NOISE, is put around all others for the length of a
run: it hears of each step before a cache can skip it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
from comfy.model_patcher import ModelPatcher as Model
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...places.depth import Attention
from ...places.families import Family
from ...places.moment import EVERY_SIGMA, UNCOND, Schedule, SigmaWindow
from ...places.reach import Reach
from ...places.stream_taps import Tap
from ...steering.record import SteeringRecord
from ...steering.summary import RunSummary
from .areas import AREAS_KEY, PICTURE_KEY, WHOLE_KEY, Areas, pixels_of, size_of
from .calls import LISTS_KEY, PROMPTS_KEY, Lists, Prompts, moment_of
from .model import depth_of, family_of, foreign_forward, step_skippers
from .ways import tapped

KEY = "sae_steering"
COMPILE_KEY = "torch.compile"  # the key under which core's TorchCompileModel adds its APPLY_MODEL wrapper
OWN_KEYS = {KEY, AREAS_KEY, LISTS_KEY, PICTURE_KEY, PROMPTS_KEY, WHOLE_KEY}
WITHOUT_PATCHES = (
    "This model was run without its patches, as Dual Model Guider runs its negative model inside the other one's run, "
    "so nothing was steered: connect the steered model to both inputs and choose the side with apply_to."
)

Options = dict[str, Any]
Report = Callable[[RunSummary], None]
Opened = Sequence[tuple[Tap, SigmaWindow]]


@dataclass
class Run:
    """One sampling run: its record, the noise schedule of the model as it is sampled, and the picture's size."""

    record: SteeringRecord
    model_sampling: Any
    pixels: tuple[int, int] | None = None  # height and width; None where they are not known

    def window(self, schedule: Schedule) -> SigmaWindow:
        """From 0 and to 1 mean from before the first and to after the last step."""
        start, end = float("inf"), -float("inf")
        if schedule.start_percent > 0:
            start = float(self.model_sampling.percent_to_sigma(schedule.start_percent))
        if schedule.end_percent < 1:
            end = float(self.model_sampling.percent_to_sigma(schedule.end_percent))
        return SigmaWindow(start, end)

    def open(self, open_taps: OpenTaps, skippers: Sequence[str] = (), elsewhere: bool = False) -> _Open:
        opened = open_taps(self)
        reaches = [Reach(tap.site, window, skippers) for tap, window in opened]
        self.record.reaches.extend(reaches)
        return _Open([tap for tap, _ in opened], reaches, elsewhere)


OpenTaps = Callable[[Run], Opened]


@dataclass(frozen=True)
class _Open:
    """The taps of one run, how far each came, and whether the negative prompt belongs to a model without them."""

    taps: Sequence[Tap]
    reaches: Sequence[Reach]
    elsewhere: bool = False


_ASIDE = _Open((), ())


def always(tap: Tap) -> OpenTaps:
    """The tap, at every noise level of every run."""
    return lambda run: [(tap, EVERY_SIGMA)]


def wrap(
    model: Model, open_taps: OpenTaps, report: Report | None, after: Callable[[Reach], None] | None = None
) -> None:
    """Adds the wrappers; `report` hears of every run, `after` of those that came to their end."""
    wrapped = _Wrapped(family_of(model), depth_of(model).attentions, open_taps, report, after)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapped.run)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, wrapped.calculate_batch)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, wrapped.apply_model)
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, wrapped.prepared)


class _Wrapped:
    """The wrappers of one node. The open taps travel in the run's own `transformer_options`, with this as their key."""

    def __init__(
        self, family: Family, attentions: Sequence[Attention], open_taps: OpenTaps, report: Report | None,
        after: Callable[[Reach], None] | None,
    ) -> None:  # fmt: skip
        self.family, self.attentions = family, attentions  # the latter of a UNet
        self.open_taps, self.report, self.after = open_taps, report, after
        self._running = threading.local()  # whether this thread is inside of `run`

    def run(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE."""
        guider = executor.class_obj
        patcher, noise = guider.model_patcher, args[0] if args else kwargs["noise"]
        pixels = pixels_of(noise, patcher.get_model_object("latent_format"))
        run = Run(SteeringRecord(), patcher.get_model_object("model_sampling"), pixels)
        try:
            with self._opened(run, guider, noise) as opened:
                out = executor(*args, **kwargs)
            run.record.finish(out)
        finally:
            if self.report is not None:
                self.report(run.record.summary())
        if self.after is not None:
            for reach in opened.reaches:
                self.after(reach)
        return out

    @contextmanager
    def _opened(self, run: Run, guider: Any, noise: Tensor) -> Iterator[_Open]:
        """The run's taps, in the guider's options for as long as it lasts."""
        before, outer = guider.model_options, getattr(self._running, "here", False)
        run.record.told.extend(foreign_forward(guider.model_patcher))
        opened = run.open(self.open_taps, step_skippers(before), self._elsewhere(guider))
        guider.model_options = comfy.model_patcher.create_model_options_clone(before)
        options = guider.model_options.setdefault("transformer_options", {})
        options[KEY] = {**options.get(KEY, {}), self: opened}
        options[PICTURE_KEY] = size_of(noise)
        options[PROMPTS_KEY] = Prompts.of(guider.conds)
        _put_first(options, WrappersMP.PREDICT_NOISE, self.predict_noise)
        self._running.here = True
        try:
            yield opened
        finally:
            self._running.here = outer
            guider.model_options = before

    def _elsewhere(self, guider: Any) -> bool:
        """DualModelGuider calls a second model for the negative prompt, with the wrappers of the first."""
        other: Model | None = getattr(guider, "uncond_model_patcher", None)
        return other is not None and self.run not in other.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)

    def prepared(self, patcher: Model) -> None:
        """ON_PRE_RUN: whoever calls the model without its wrappers leaves the taps out."""
        if self.report is not None and not getattr(self._running, "here", False):
            record = SteeringRecord()
            record.told.append(WITHOUT_PATCHES)
            self.report(record.summary())

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Options | None = None, seed: Any = None
    ) -> Any:
        """PREDICT_NOISE: a step that the sampler asks for, and the whole latent that it has."""
        model_options = model_options or {}
        options = model_options.get("transformer_options", {})
        opened = options.get(KEY, {}).get(self, _ASIDE)
        for reach in opened.reaches:
            reach.ask(float(timestep.flatten()[0]))
        return executor(x, timestep, {**model_options, "transformer_options": {**options, WHOLE_KEY: x}}, seed)

    def calculate_batch(
        self, executor: Any, model: Any, conds: Any, x: Tensor, t: Tensor, model_options: Options, **kwargs: Any
    ) -> Any:
        """CALC_COND_BATCH."""
        options = {**model_options.get("transformer_options", {}), AREAS_KEY: Areas.of(conds, x)}
        prompts, opened = options.get(PROMPTS_KEY), options.get(KEY, {}).get(self)
        if prompts is not None:
            options[LISTS_KEY] = lists = Lists.of(conds, len(x), prompts)
            if opened is not None and opened.elsewhere and set(lists.sides) == {UNCOND}:
                options[KEY] = {**options[KEY], self: _ASIDE}
        return executor(model, conds, x, t, {**model_options, "transformer_options": options}, **kwargs)

    def apply_model(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: Options | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """APPLY_MODEL."""
        base, options = executor.class_obj, transformer_options or {}
        opened = options.get(KEY, {}).get(self)
        if opened is None:  # called outside a sampling run
            opened = Run(SteeringRecord(), base.model_sampling).open(self.open_taps)
        if opened is _ASIDE:
            return executor(x, t, c_concat, c_crossattn, control, self._without(options), **kwargs)
        network = base.diffusion_model
        moment = moment_of(x, t, c_crossattn, options, self.family, network, kwargs)
        for tap in opened.taps:
            tap.ready(x.shape[0], moment, x.device)
        options = self._without(options)
        with tapped(options, network, self.family, opened.taps, moment, opened.reaches, self.attentions) as options:
            kwargs |= _for_compiled(options, opened.taps)
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        for reach in opened.reaches:
            reach.call()
        return out

    def _without(self, options: Options) -> Options:
        """The options without what is this one's own; the last of several takes away what they share.

        What is compiled behind this remembers each key that it once saw, and fails where one is missing.
        """
        others = {key: opened for key, opened in options.get(KEY, {}).items() if key is not self}
        if others:
            return {**options, KEY: others}
        return {key: value for key, value in options.items() if key not in OWN_KEYS}


def _put_first(options: Options, kind: str, wrapper: Callable[..., Any]) -> None:
    """Puts a wrapper around all others of its kind."""
    wrappers = options.setdefault("wrappers", {})
    others = {key: found for key, found in wrappers.get(kind, {}).items() if key != KEY}
    wrappers[kind] = {KEY: [wrapper, *wrappers.get(kind, {}).get(KEY, [])], **others}


def _for_compiled(options: Options, taps: Sequence[Tap]) -> dict[str, str]:
    """A keyword for a compiled model, which has no guard on `transformer_options` but notices this.

    It names the slots in use, or the places where the family has none.
    """
    if COMPILE_KEY not in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        return {}
    slots = options.get("patches_replace", {}).get("dit", {})
    return {KEY: str(sorted(slots) or [str(tap.site) for tap in taps])}

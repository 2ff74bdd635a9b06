"""Drawing and listening with a MODEL over and over, as loops ask for it: sweep, calibration, labelling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...dictionary.sae_set import Member
from ...places.moment import OnProgress, OnStep
from ...places.reach import Reach
from ...steering.host_calls import Drawn, Level, Steered, Which
from ...steering.intervention import Intervention
from ...steering.row_by_row import Alone
from ...steering.summary import RunSummary
from .memory import MOST_RUNS, rows_within, runs_at_once
from .sampling import Sampling, call_once, sample, sigmas_of
from .steering import See, Watched, steer, steer_each, with_tap

log = logging.getLogger(__name__)


def progress_bar(steps: int) -> OnProgress:
    """ComfyUI's bar, for runs of so many steps; it raises where Cancel was pressed."""
    bar = comfy.utils.ProgressBar(steps)

    def on_progress(done: float, total: int, preview: Any = None) -> None:
        bar.update_absolute(round(done * steps), total * steps, preview)

    return on_progress


def writing_bar() -> Callable[[int, int], None]:
    """ComfyUI's bar, in bytes; it raises where Cancel was pressed."""
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar asks only now and then
        bar.update_absolute(done, max(total, 1))

    return tell


def heard(on_step: OnStep, model: Model | None = None) -> Callable[..., None]:
    """The callback of `sample`; with a model it brings a preview of each step, where previews are switched on."""
    previewer = None if model is None else latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        preview = previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None
        on_step(min((step + 1) / max(total, 1), 1.0), preview)

    return callback


@dataclass(frozen=True)
class Drawing:
    """The `Draw` of a MODEL: pictures, shown while they come, where there is a VAE; else latents."""

    model: Model
    positive: Any
    latent: dict[str, Any]
    how: Sampling
    negative: Any = None
    vae: Any = None
    _told: set[str] = field(default_factory=set, repr=False)

    def __call__(
        self, interventions: Sequence[Intervention], random_direction: int | None, on_step: OnStep
    ) -> Drawn:  # fmt: skip
        reports: list[RunSummary] = []
        model = self.model
        if interventions:
            model = steer(model, interventions, reports.append, random_direction)
        return self._drawn(self._sampled(model, on_step), reports[-1] if reports else None)

    def most(self) -> int:
        return runs_at_once(self.model, self.latent["samples"].shape) if self.how.steady else 1

    def together(self, several: Sequence[Steered], on_step: OnStep) -> list[Drawn]:
        if len(several) == 1:
            return [self(*several[0], on_step)]
        reports: list[RunSummary] = []
        model = steer_each(self.model, several, reports.extend)
        latents = self._sampled(model, on_step, len(several)).chunk(len(several))
        told = [report if one.interventions else None for one, report in zip(several, reports, strict=True)]
        return [self._drawn(latent, report) for latent, report in zip(latents, told, strict=True)]

    def _sampled(self, model: Model, on_step: OnStep, runs: int = 1) -> Tensor:
        callback = heard(on_step, None if self.vae is None else self.model)
        return sample(model, self.positive, self.latent, self.how, callback, self.negative, runs)

    def _drawn(self, latent: Tensor, report: RunSummary | None) -> Drawn:
        ratio = 0.0 if report is None else self._checked(report)
        if self.vae is None:
            return Drawn(latent.float(), ratio)
        return Drawn(self.vae.decode(latent)[..., :3].movedim(-1, 1).float().cpu(), ratio)

    def _checked(self, report: RunSummary) -> float:
        """The run's mean ‖Δ‖/‖x‖; ValueError where nothing was steered because the place was never reached."""
        report.check_reached()
        for sentence in sorted({*report.told, *report.unreached} - self._told):
            self._told.add(sentence)
            log.warning("%s", sentence)
        return report.mean_ratio


def first_of_batch(latent: dict[str, Any]) -> dict[str, Any]:
    """A LATENT without its other pictures."""
    first = {**latent, "samples": latent["samples"][:1]}
    first.pop("batch_index", None)
    return first


class Listening:
    """The `Listen` of a MODEL: runs prompts, all with one clone of it that is observed at the members' sites."""

    def __init__(
        self, model: Model, clip: Any, members: Sequence[Member], latent: dict[str, Any], how: Sampling
    ) -> None:
        self.model, self.clip, self.latent, self.how = model, clip, latent, how
        self._kept: dict[str, Any] = {}
        self.watched = Watched(model, [(member.site, member.sae) for member in members])

    def most(self) -> int:
        return runs_at_once(self.model, self.latent["samples"].shape) if self.how.steady else 1

    def parts(self, prompts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Those that follow each other and are encoded to one part of the same shape go together."""
        for shapes, alike in groupby(prompts, lambda prompt: shapes_of(self._encoded(prompt))):
            part = list(alike)
            yield from [part] if len(shapes) == 1 else [[prompt] for prompt in part]

    def __call__(self, prompts: Sequence[str], sees: Sequence[See], on_step: OnStep) -> Tensor:
        pictures = len(self.latent["samples"])
        conditioning = joined([self._encoded(prompt) for prompt in prompts], pictures)
        with self.watched.showing(sees) as model:
            return sample(model, conditioning, self.latent, self.how, heard(on_step), runs=len(prompts))

    def _encoded(self, prompt: str) -> Any:
        if prompt not in self._kept:
            while len(self._kept) >= MOST_RUNS:
                del self._kept[next(iter(self._kept))]
            self._kept[prompt] = encoded(self.clip, prompt)
        return self._kept[prompt]


def encoded(clip: Any, text: str) -> Any:
    """The text's CONDITIONING, as CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def shapes_of(conditioning: Any) -> Any:
    """What conditionings must have alike to be `joined`: how many parts they have, their shapes, and all else."""
    return [
        (cross.shape, {k: v.shape if isinstance(v, Tensor) else str(v) for k, v in extras.items()})
        for cross, extras in conditioning
    ]


def joined(conditionings: Sequence[Any], pictures: int = 1) -> Any:
    """Conditionings of one part and shape each as one for a batch that has so many pictures of each, in their order."""

    def rows(values: Sequence[Any]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return torch.cat([value.repeat_interleave(pictures, 0) for value in values])

    if len(conditionings) == 1:
        return conditionings[0]
    parts = [part for [part] in conditionings]
    crosses, extras = zip(*parts, strict=True)
    return [[rows(crosses), {key: rows([one[key] for one in extras]) for key in extras[0]}]]


MOST_ROWS = 8  # Cancel and the bar come between calls; more rows make no large model faster


def keeping(
    model: Model, how: Sampling, steps: Sequence[int], levels: list[Level], callback: Callable[..., None]
) -> Callable[..., None]:
    """The callback of a run of `how` that also puts the first picture's latents at these steps into `levels`."""
    sigmas = sigmas_of(model, how)

    def keep(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        if step in steps:
            levels.append(Level(float(sigmas[step]), x[:1].clone()))
        callback(step, denoised, x, total)

    return keep


@dataclass
class Predicting:
    """The `Predict` of a MODEL, from the `levels` that `keeping` noted in a run of `how`."""

    model: Model
    prompts: Mapping[Which, Any]
    latent: dict[str, Any]
    how: Sampling
    levels: Sequence[Level]

    @cached_property
    def most_rows(self) -> int:
        """As many as the memory that is free now has room for, by the model's own estimate; 1 where it has none."""
        return rows_within(self.model, self.levels[0].latent.shape[1:], MOST_ROWS)

    def __call__(self, which: Which, level: Level, rows: int, taps: Sequence[Alone] = ()) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        model = self.model
        for tap in taps:
            model = with_tap(model, tap, tap.dictionary, Reach.check)
        return call_once(model, self.prompts[which], first_of_batch(self.latent), self.how, level, rows)

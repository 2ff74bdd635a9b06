"""Drawing and listening with a MODEL over and over, as loops ask for it: sweep, calibration, labelling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...places.moment import Moment
from ...places.progress import OnProgress, OnStep
from ...places.site import Site
from ...steering.draw import Drawn
from ...steering.intervention import Intervention
from ...steering.record import RunSummary
from .sampling import Sampling, sample
from .steering import observe, steer

log = logging.getLogger(__name__)


def progress_bar(steps: int) -> OnProgress:
    """ComfyUI's bar, for runs of so many steps; it raises where Cancel was pressed."""
    bar = comfy.utils.ProgressBar(steps)

    def on_progress(done: float, total: int, preview: Any = None) -> None:
        bar.update_absolute(round(done * steps), total * steps, preview)

    return on_progress


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

    def __call__(self, intervention: Intervention | None, random_direction: int | None, on_step: OnStep) -> Drawn:
        reports: list[RunSummary] = []
        model = self.model
        if intervention is not None:
            model = steer(model, intervention, reports.append, random_direction)
        callback = heard(on_step, None if self.vae is None else self.model)
        latent = sample(model, self.positive, self.latent, self.how, callback, self.negative)
        ratio = self._checked(reports[-1]) if reports else 0.0
        if self.vae is None:
            return Drawn(latent.float(), ratio)
        return Drawn(self.vae.decode(latent)[..., :3].movedim(-1, 1).float().cpu(), ratio)

    def _checked(self, report: RunSummary) -> float:
        """The run's mean ‖Δ‖/‖x‖; ValueError where nothing was steered because the place was never reached."""
        report.check_reached()
        for sentence in sorted({*report.unreached} - self._told):
            self._told.add(sentence)
            log.warning("%s", sentence)
        return report.mean_ratio


def first_of_batch(latent: dict[str, Any]) -> dict[str, Any]:
    """A LATENT without its other pictures."""
    first = {**latent, "samples": latent["samples"][:1]}
    first.pop("batch_index", None)
    return first


class Listening:
    """The `Listen` of a MODEL: runs prompts, all with one observed clone of it."""

    def __init__(
        self, model: Model, clip: Any, sae: SparseAutoencoder, site: Site, latent: dict[str, Any], how: Sampling
    ) -> None:
        self.clip, self.latent, self.how = clip, latent, how
        self.model = observe(model, site, self._show, sae)
        self._see: Callable[[Tensor, Moment], None] | None = None

    def __call__(self, prompt: str, see: Callable[[Tensor, Moment], None], on_step: OnStep) -> None:
        self._see = see
        conditioning = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))
        sample(self.model, conditioning, self.latent, self.how, heard(on_step))

    def _show(self, x: Tensor, moment: Moment) -> None:
        if self._see is not None:
            self._see(x, moment)

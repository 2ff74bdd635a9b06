"""Steering and reading models inside ComfyUI: clones of a MODEL with taps on their runs, and a check of the mask.

`ComfyuiModel` is a MODEL as the front door runs any model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Model
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...dictionary.directions import Directions
from ...dictionary.owner import TrainedOn
from ...dictionary.sae_set import AnySae, Member
from ...dictionary.weights import PartName
from ...places.depth import Depth
from ...places.families import Family
from ...places.moment import Moment
from ...places.reach import Reach, skipped
from ...places.region import check_mask, moment_weights
from ...places.site import Site
from ...places.stream_taps import Observer, Tap
from ...steering.host_calls import Steered
from ...steering.intervention import Intervention, RandomDirection
from ...steering.record import SteeringRecord
from ...steering.row_by_row import Apart
from ...steering.set_up import SetUp
from ...steering.summary import RunSummary
from ..host import See, SteeringResult
from .areas import fitted
from .calls import moment_of
from .memory import patcher_of
from .model import check_fit, depth_of, family_of, identity_of, members_in
from .runs import KEY, Opened, Report, Run, always, wrap

log = logging.getLogger(__name__)


def steer(
    model: Model, interventions: Sequence[Intervention], report: Report | None, random_direction: int | None = None
) -> Model:
    """A clone of the model that is steered; `report` hears one summary of them all after each sampling run.

    With `random_direction` each Δ keeps its length but points along one random direction, drawn from that seed.
    """
    steered, interventions = model.clone(), _placed(model, interventions)
    wrap(steered, lambda run: _begun(run, interventions, run.record, random_direction), report)
    _manage(steered, interventions)
    return steered


def steer_each(model: Model, several: Sequence[Steered], report: Callable[[Sequence[RunSummary]], None]) -> Model:
    """A clone of the model for one run of several drawings, whose rows stand one behind the other: each its own way.

    `report` hears the summary of each. What stood in the way of the run as a whole is told in each of them.
    """
    placed = [one._replace(interventions=_placed(model, one.interventions)) for one in several]
    steered, records = model.clone(), list[SteeringRecord]()

    def open_taps(run: Run) -> Opened:
        records[:] = [SteeringRecord() for _ in placed]
        return [
            (Apart(tap, number, len(placed)), window)
            for number, (one, record) in enumerate(zip(placed, records, strict=True))
            for tap, window in _begun(run, one.interventions, record, one.random_direction)
        ]

    def report_each(whole: RunSummary) -> None:
        own = [replace(record.summary(), unreached=whole.unreached, told=whole.told) for record in records]
        report(own or [whole] * len(placed))

    wrap(steered, open_taps, report_each)
    _manage(steered, [item for one in placed for item in one.interventions])
    return steered


def _placed(model: Model, interventions: Sequence[Intervention]) -> list[Intervention]:
    return [replace(item, site=check_fit(model, item.steering.sae, item.site)) for item in interventions]


def _begun(
    run: Run, interventions: Sequence[Intervention], record: SteeringRecord, random_direction: int | None
) -> Opened:
    for item in interventions:
        run.record.told.extend(fitted(item.mask, run.pixels))
    active = [item.begin(record, run.window(item.schedule)) for item in interventions]
    if random_direction is None:
        return [(tap, tap.window) for tap in active]
    return [(RandomDirection(tap, random_direction), tap.window) for tap in active]


def _manage(model: Model, interventions: Sequence[Intervention]) -> None:
    for item in interventions:
        if isinstance(item.steering.sae, SparseAutoencoder):
            _manage_weights(model, item.steering.sae, sorted(item.steering.reads))


def observe(
    model: Model, site: Site, see: Callable[[Tensor, Moment], None], sae: SparseAutoencoder | None,
    after: Callable[[Reach], None] | None = None,
) -> Model:  # fmt: skip
    """A clone of the model that shows `see` the tokens of a site at each call; see `with_tap`."""
    return with_tap(model, Observer(check_fit(model, sae, site), see), sae, after or _check_reading)


def with_tap(model: Model, tap: Tap, sae: Directions | None, after: Callable[[Reach], None]) -> Model:
    """A clone of the model with a tap that encodes, so the SAE's encoder is loaded beside it, if there is one.

    The tap's site is named as `check_fit` returns it. `after` hears of every run that comes to its end how far the tap
    came.
    """
    check_fit(model, sae, tap.site)
    clone = model.clone()
    wrap(clone, always(tap), None, after)
    if isinstance(sae, SparseAutoencoder):
        _manage_weights(clone, sae, ["encoder"])
    return clone


def _check_reading(reach: Reach) -> None:
    reach.check()
    for sentence in [*reach.missed("read"), *skipped([reach], "read")]:
        log.warning("%s", sentence)


def _manage_weights(model: Model, sae: SparseAutoencoder, parts: Sequence[PartName]) -> None:
    """Lets ComfyUI load and offload the parts of the SAE that are computed with, beside the model."""
    known = model.get_additional_models_with_key(KEY)
    managed = {id(patcher.model) for patcher in known}
    patchers = [patcher_of(sae.part(part), sae.weights.handles, part) for part in parts]
    fresh = [patcher for patcher in patchers if id(patcher.model) not in managed]
    if fresh:
        model.set_additional_models(KEY, [*known, *fresh])


def carry(model: Model, set_up: SetUp) -> None:
    """Adds to what the MODEL carries already; other clones of it do not notice."""
    model.set_attachments(KEY, (*carried(model), set_up))


def carried(model: Model) -> tuple[SetUp, ...]:
    """The set-ups in the order in which they were added; none where nothing steers the MODEL."""
    found: tuple[SetUp, ...] = model.get_attachment(KEY) or ()
    return found


class Watched:
    """Shows the tokens of sites; where an SAE is named with a site, its encoder is loaded beside the model."""

    def __init__(self, model: Model, places: Sequence[tuple[Site, SparseAutoencoder | None]]) -> None:
        self._sees: Sequence[See] = ()
        self._model = model
        for number, (site, sae) in enumerate(places):
            self._model = observe(self._model, site, partial(self._show, number), sae)

    @contextmanager
    def showing(self, sees: Sequence[See]) -> Iterator[Model]:
        """The model to run; each of `sees` gets the tokens of its site, (batch, tokens, width), at every call."""
        self._sees = sees
        try:
            yield self._model
        finally:
            self._sees = ()

    def _show(self, number: int, x: Tensor, moment: Moment) -> None:
        if self._sees:
            self._sees[number](x, moment)


MASK_CHECK = "sae_steering_mask"


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

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, MASK_CHECK, run_sampling)
    return clone


@dataclass(frozen=True)
class ComfyuiModel:
    """The `Host` of a MODEL."""

    model: Model

    @property
    def family(self) -> Family:
        return family_of(self.model)

    @property
    def depth(self) -> Depth:
        return depth_of(self.model)

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(self.family.name, identity=identity_of(self.model))

    def members(self, sae: AnySae, location: str, stream: str) -> list[Member]:
        return members_in(self.model, sae, location, stream)

    def showing(
        self, places: Sequence[tuple[Site, SparseAutoencoder | None]], sees: Sequence[See]
    ) -> AbstractContextManager[Model]:
        return Watched(self.model, places).showing(sees)

    @contextmanager
    def steering(self, interventions: Sequence[Intervention]) -> Iterator[SteeringResult]:
        reports: list[RunSummary] = [RunSummary()]
        yield SteeringResult(steer(self.model, interventions, reports.append), lambda: reports[-1])

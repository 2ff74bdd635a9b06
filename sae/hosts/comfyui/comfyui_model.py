"""A MODEL of ComfyUI as the front door runs any model; `steering.py` does the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher as Model

from ...dictionary.autoencoder import SparseAutoencoder
from ...dictionary.origin import TrainedOn
from ...dictionary.sae_set import AnySae, Member
from ...places.families import Family
from ...places.site import Depth, Site
from ...steering.intervention import Intervention
from ...steering.summary import RunSummary
from ..host import See, Steered
from .model import depth_of, family_of, identity_of, members_in
from .steering import Watched, steer


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
    def steering(self, interventions: Sequence[Intervention]) -> Iterator[Steered]:
        reports: list[RunSummary] = [RunSummary()]
        yield Steered(steer(self.model, interventions, reports.append), lambda: reports[-1])

"""One model, whichever host runs it: what `any_model.py` asks of ComfyUI's and of diffusers' models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import TrainedOn
from ..dictionary.sae_set import AnySae, Member
from ..places.depth import Depth
from ..places.families import Family
from ..places.moment import Moment
from ..places.site import Site
from ..steering.intervention import Intervention
from ..steering.summary import RunSummary

Model = Any  # a MODEL of ComfyUI, or diffusers' FluxTransformer2DModel or UNet2DConditionModel
See = Callable[[Tensor, Moment], None]


class Host(Protocol):
    """One model, as its host's own module runs it."""

    @property
    def family(self) -> Family: ...

    @property
    def depth(self) -> Depth: ...

    @property
    def trained_on(self) -> TrainedOn:
        """What a dictionary that is made on it says of it."""

    def members(self, sae: AnySae, location: str, stream: str) -> list[Member]:
        """The places that `location` and `stream` mean, each with its SAE."""

    def showing(
        self, places: Sequence[tuple[Site, SparseAutoencoder | None]], sees: Sequence[See]
    ) -> AbstractContextManager[Model]:
        """The model to run; meanwhile each of `sees` gets the tokens of its place."""

    def steering(self, interventions: Sequence[Intervention]) -> AbstractContextManager[SteeringResult]:
        """The steered model, and what was done in its runs."""


@dataclass(frozen=True)
class SteeringResult:
    """What `steer` gives: the steered thing, and what steering did to it."""

    result: Any  # the model to draw with, or the steered embedding
    told: Callable[[], RunSummary]

    @property
    def summary(self) -> RunSummary:
        """Steps steered, ‖Δ‖/‖x‖, and what stood in the way; of the newest run."""
        return self.told()

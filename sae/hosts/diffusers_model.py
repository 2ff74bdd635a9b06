"""diffusers' transformer as the front door runs any model; `diffusers.py` does the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.origin import TrainedOn
from ..dictionary.sae_set import AnySae, Member, check_sites, members_at
from ..places.families import Family, family_named
from ..places.site import Depth, Site
from ..steering.intervention import Intervention
from .diffusers import capture, depth_of, steer
from .host import See, Steered

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

FAMILY = "FLUX.1"


@dataclass(frozen=True)
class DiffusersModel:
    """The `Host` of a FluxTransformer2DModel."""

    transformer: FluxTransformer2DModel

    @property
    def family(self) -> Family:
        family = family_named(FAMILY)
        if family is None:
            raise LookupError(f"no row for {FAMILY}")
        return family

    @property
    def depth(self) -> Depth:
        return depth_of(self.transformer)

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(FAMILY)

    def members(self, sae: AnySae, location: str, stream: str) -> list[Member]:
        members = members_at(sae, location, stream)
        check_sites(sae, members, self.family, self.depth)
        return members

    @contextmanager
    def showing(
        self, places: Sequence[tuple[Site, SparseAutoencoder | None]], sees: Sequence[See]
    ) -> Iterator[FluxTransformer2DModel]:
        with ExitStack() as stack:
            for (site, _), see in zip(places, sees, strict=True):
                stack.enter_context(capture(self.transformer, site, see))
            yield self.transformer

    @contextmanager
    def steering(self, interventions: Sequence[Intervention]) -> Iterator[Steered]:
        with steer(self.transformer, interventions) as record:
            yield Steered(self.transformer, record.summary)

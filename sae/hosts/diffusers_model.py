"""diffusers' transformer or UNet as the front door runs any model; `diffusers.py` does the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.origin import TrainedOn
from ..dictionary.sae_set import AnySae, Member, check_sites, members_at
from ..places.families import Family, family_named
from ..places.site import Depth, Site
from ..steering.intervention import Intervention
from .diffusers import Transformer, capture, depth_of, steer
from .diffusers_unet import family_name, is_unet
from .host import See, Steered

FAMILY = "FLUX.1"


@dataclass(frozen=True)
class DiffusersModel:
    """The `Host` of a FluxTransformer2DModel or a UNet2DConditionModel."""

    transformer: Transformer

    @property
    def family(self) -> Family:
        name = family_name(self.transformer) if is_unet(self.transformer) else FAMILY
        family = family_named(name)
        if family is None:
            raise LookupError(f"no row for {name}")
        return family

    @property
    def depth(self) -> Depth:
        return depth_of(self.transformer)

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(self.family.name)

    def members(self, sae: AnySae, location: str, stream: str) -> list[Member]:
        members, family, depth = members_at(sae, location, stream), self.family, self.depth
        check_sites(sae, members, family, depth)
        return [self._in_unet(member) for member in members] if family.is_unet else members

    def _in_unet(self, member: Member) -> Member:
        """By diffusers' names; ValueError for an SAE of another width than that of its place."""
        site, sae, depth = self.family.place(member.site, self.depth), member.sae, self.depth
        width = depth.width(site.kind, site.blocks)
        if width != sae.d_in:
            raise ValueError(
                f"sae: {sae.name} was trained on activations of width {sae.d_in}, but at {site.location} this model "
                f"has width {width}; use an SAE that was trained on this model."
            )
        return replace(member, site=site)

    @contextmanager
    def showing(
        self, places: Sequence[tuple[Site, SparseAutoencoder | None]], sees: Sequence[See]
    ) -> Iterator[Transformer]:
        with ExitStack() as stack:
            for (site, _), see in zip(places, sees, strict=True):
                stack.enter_context(capture(self.transformer, site, see))
            yield self.transformer

    @contextmanager
    def steering(self, interventions: Sequence[Intervention]) -> Iterator[Steered]:
        with steer(self.transformer, interventions) as record:
            yield Steered(self.transformer, record.summary)

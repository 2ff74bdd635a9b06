"""Several SAEs of one model as one: each at its own place, their features numbered through."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from ..places.depth import Depth, running_order
from ..places.families import Family
from ..places.site import STREAMS, Site, parse_location, resolve_site
from .autoencoder import SparseAutoencoder
from .owner import DIGITS, Owner, TrainedOn
from .statistics import NAMES, FeatureStatistics

_POINTS = ("input", "attn", "cross", "mlp", "transcoder", "update", "block")


@dataclass(frozen=True)
class Member:
    """One SAE at a place. Its feature k is the feature `first` + k of whoever numbers several through."""

    sae: SparseAutoencoder
    first: int
    site: Site

    def __contains__(self, feature: int) -> bool:
        return self.first <= feature < self.first + self.sae.d_sae


class SaeSet:
    """A named set of SAEs of one model, each with a site of its own, in the order of the network.

    A feature of a set is one number: the first number of its member plus the member's own. Labels and statistics are
    the members'; a set has none of its own.
    """

    def __init__(self, saes: Iterable[SparseAutoencoder], name: str) -> None:
        """Raises ValueError for fewer than two SAEs, one without a site, two at one site, and SAEs of two models.

        Of two models they are by their widths, or by the families that they were trained on.
        """
        self.name = name
        self.members = tuple(_numbered(_checked(list(saes), name)))

    def __repr__(self) -> str:
        return f"{self.name}: a set of {len(self.members)} SAEs, {self.d_sae} features of width {self.d_in}"

    @property
    def d_in(self) -> int:
        return self.members[0].sae.d_in

    @property
    def d_sae(self) -> int:
        """How many features all members have together."""
        return sum(member.sae.d_sae for member in self.members)

    count = d_sae

    @property
    def owner(self) -> Owner:
        """The set by its members' content, in their order."""
        members = "".join(member.sae.owner.identity for member in self.members)
        return Owner(hashlib.blake2b(f"set {members}".encode(), digest_size=DIGITS // 2).hexdigest(), self.name)

    @property
    def trained_on(self) -> TrainedOn | None:
        """What the members that tell of it have in common; None where none tells."""
        known = [member.sae.trained_on for member in self.members if member.sae.trained_on is not None]
        if not known:
            return None
        models, identities = {told.model for told in known}, {told.identity for told in known}
        return TrainedOn(known[0].family, _only(models), _only(identities))

    @property
    def statistics(self) -> FeatureStatistics | None:
        """The members' statistics in a row: of mean, max and density those that every member has."""
        known = [member.sae.statistics for member in self.members]
        found = {name: _row([getattr(statistics, name, None) for statistics in known]) for name in NAMES}
        if all(tensor is None for tensor in found.values()):
            return None
        tokens = min(statistics.tokens for statistics in known if statistics is not None)
        return FeatureStatistics(found["mean"], found["max"], found["density"], tokens)

    def member_of(self, feature: int) -> Member:
        """Whose a feature is, and so at which site; ValueError for a number that the set does not have."""
        for member in self.members:
            if feature in member:
                return member
        raise ValueError(f"feature: {self.name} has no feature {feature}; its features are 0 to {self.d_sae - 1}.")

    def at(self, location: str, stream: str) -> SaeSet | SparseAutoencoder:
        """The members inside a location as a set of their own, with numbers of its own; one alone is no set."""
        chosen = [member.sae for member in members_at(self, location, stream)]
        if len(chosen) == len(self.members):
            return self
        return chosen[0] if len(chosen) == 1 else SaeSet(chosen, f"{self.name} at {_asked(location, stream)}")


AnySae = SparseAutoencoder | SaeSet  # what travels on an SAE socket


def saes_of(sae: AnySae) -> list[SparseAutoencoder]:
    return [member.sae for member in sae.members] if isinstance(sae, SaeSet) else [sae]


def members_at(sae: AnySae, location: str, stream: str) -> list[Member]:
    """The places that the inputs `location` and `stream` mean, each with its SAE.

    One SAE acts wherever it is told. Of a set they choose the members whose sites lie inside, which keep their numbers;
    ValueError with the set's sites where none does.
    """
    if not isinstance(sae, SaeSet):
        return [Member(sae, 0, resolve_site(location, stream, sae.site))]
    found = list(sae.members)
    if location.strip() not in ("", "auto"):
        asked = parse_location(location, stream)
        found = [member for member in found if _inside(member.site, asked)]
    if stream != "auto":
        if stream not in STREAMS:
            raise ValueError(f"stream: {stream!r} is not a stream; use auto, image, text or joint.")
        found = [member for member in found if member.site.stream == stream]
    if not found:
        sites = ", ".join(str(member.site) for member in sae.members)
        raise ValueError(
            f"location: no SAE of {sae.name} is at {_asked(location, stream)}; 'auto' takes all of its places, {sites}."
        )
    return found


def check_sites(sae: AnySae, members: Sequence[Member], family: Family, depth: Depth) -> None:
    """Raises ValueError where a member of a set is at a place that a model of this family and depth lacks."""
    beyond = [member for member in members if not family.takes(member.site, depth)]
    if isinstance(sae, SaeSet) and beyond:
        raise ValueError(
            f"sae: {beyond[0].sae.name} of {sae.name} is at {beyond[0].site}, but this {family.name} has "
            f"{'; '.join(family.offers(depth))}; use a set for this model, or choose places by location."
        )


def _checked(saes: Sequence[SparseAutoencoder], name: str) -> list[tuple[Site, SparseAutoencoder]]:
    """The SAEs with their sites, in the order of the network."""
    if len(saes) < 2:
        came = f"{saes[0].name} alone" if saes else "nothing"
        raise ValueError(f"sae: a set needs at least two SAEs, but {came} came for {name}; use one SAE as it is.")
    placed: list[tuple[Site, SparseAutoencoder]] = []
    for sae in saes:
        if sae.site is None:
            raise ValueError(
                f"sae: {sae.name} does not tell where in the model it belongs, which an SAE of a set must; give its "
                "location where it is loaded."
            )
        if sae.d_in != saes[0].d_in:
            raise ValueError(
                f"sae: {saes[0].name} has width {saes[0].d_in} and {sae.name} width {sae.d_in}, which is not one "
                "model's; make sets of SAEs of the same model."
            )
        other = next((known for _, known in placed if _families(known, sae) == 2), None)
        if other is not None:
            raise ValueError(
                f"sae: {other.name} was trained on {_family(other)} and {sae.name} on {_family(sae)}; make sets of "
                "SAEs of the same model."
            )
        twice = next((other for site, other in placed if _meet(site, sae.site)), None)
        if twice is not None:
            raise ValueError(
                f"sae: {twice.name} and {sae.name} are both at {sae.site}, but a set has one SAE for each place; "
                "leave one of them out."
            )
        placed.append((sae.site, sae))
    return sorted(placed, key=lambda entry: _order(entry[0]))


def _family(sae: SparseAutoencoder) -> str:
    """The family of models that an SAE was trained on; empty where that is not known."""
    return sae.trained_on.family if sae.trained_on else ""


def _families(*saes: SparseAutoencoder) -> int:
    """On how many families SAEs were trained, of those that tell."""
    return len({family for family in map(_family, saes) if family})


def _only(texts: Set[str]) -> str:
    """What all say; empty where they differ."""
    return next(iter(texts)) if len(texts) == 1 else ""


def _numbered(placed: Iterable[tuple[Site, SparseAutoencoder]]) -> Iterator[Member]:
    first = 0
    for site, sae in placed:
        yield Member(sae, first, site)
        first += sae.d_sae


def _order(site: Site) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    return running_order(site.kind), site.blocks, _POINTS.index(site.point), STREAMS.index(site.stream)


def _meet(one: Site, other: Site) -> bool:
    """Whether both name the same tokens somewhere."""
    streams = {one.stream, other.stream}
    same = (one.kind, one.point) == (other.kind, other.point) and (len(streams) == 1 or "joint" in streams)
    return same and bool(set(one.blocks) & set(other.blocks))


def _inside(site: Site, asked: Site) -> bool:
    """Whether a location has the site in it, whichever stream."""
    return (site.kind, site.point) == (asked.kind, asked.point) and set(site.blocks) <= set(asked.blocks)


def _asked(location: str, stream: str) -> str:
    where = "" if location.strip() in ("", "auto") else location.strip()
    return " ".join(filter(None, [where, "" if stream == "auto" else f"({stream})"]))


def _row(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.cat([tensor.float().cpu() for tensor in known]) if len(known) == len(tensors) else None

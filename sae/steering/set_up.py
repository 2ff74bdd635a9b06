"""What is wanted of a steering, made into one intervention for each of its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..dictionary.sae_set import AnySae, Member, SaeSet
from ..places.moment import WHOLE_RUN, Schedule, Side
from ..places.site import Point, Site
from .delta import Steering, check_lists
from .edits import Edit, FeatureList, Method, Unit
from .intervention import Intervention
from .methods import DEFAULT, METHODS
from .steering_inputs import EVERY_TOKEN, Gate


@dataclass(frozen=True)
class Wanted:
    """What FluxActivationSteer is told, but for the model and the place."""

    features: Sequence[Edit]
    method: Method = DEFAULT
    strength: float = 1.0
    unit: Unit = "token_norm"
    replaces: Sequence[Edit] = ()  # what is taken out, by a method that needs it
    schedule: Schedule = WHOLE_RUN
    side: Side = "both"
    mask: Tensor | None = None
    gate: Gate = EVERY_TOKEN
    keep_norm: bool = False

    def at(self, sae: AnySae, members: Sequence[Member]) -> Planned:
        """The interventions at the places that `members_at` gave for this SAE or set.

        ValueError as for `Steering`, and where nothing is left to do at any place.
        """
        if isinstance(sae, SaeSet):
            return self._of_set(sae, members)
        steering = Steering(sae, self.features, self.method, self.strength, self.unit, self.replaces, self.gate)
        return Planned(members, [self._intervention(steering, member.site) for member in members], ())

    def _of_set(self, sae: SaeSet, members: Sequence[Member]) -> Planned:
        check_lists(sae, self.features, self.replaces, self.method, self.gate)
        lists = (self.features, self.replaces, self.gate.edits)
        parts = [_Part(member, *(_own(member, edits) for edits in lists)) for member in members]
        acting = [
            part
            for part in parts
            if part.features
            and (part.replaces or not METHODS[self.method].needs_replaces)
            and (part.gate or not self.gate)
        ]
        if not acting:
            raise ValueError(_nothing(sae, members, parts, self.method))
        sites = [part.member.site for part in acting]
        interventions = [self._intervention(self._steering(sae, part, sites), part.member.site) for part in acting]
        told = [warning for edits in lists if isinstance(edits, FeatureList) for warning in edits.warnings]
        return Planned([part.member for part in acting], interventions, (*told, *_left_out(sae, members, parts, self)))

    def _steering(self, sae: SaeSet, part: _Part, sites: Sequence[Site]) -> Steering:
        """What a member does of the whole, in its own numbers."""
        member, total, edits = part.member, self.strength, part.features
        if METHODS[self.method].own_parts:
            shares = [spread(total * edit.strength, self.method, member.site, sites) for edit in edits]
            edits = [replace(edit, strength=share) for edit, share in zip(edits, shares, strict=True)]
            total = 1.0
        else:
            total = spread(total, self.method, member.site, sites)
        try:
            gate = replace(self.gate, edits=part.gate)
            return Steering(member.sae, edits, self.method, total, self.unit, part.replaces, gate)
        except ValueError as error:
            raise ValueError(
                f"{str(error).removesuffix('.')}; that is in its own numbers, and its feature 0 is {member.first} of "
                f"{sae.name}."
            ) from error

    def _intervention(self, steering: Steering, site: Site) -> Intervention:
        return Intervention(steering, site, self.schedule, self.side, self.mask, self.keep_norm)


@dataclass(frozen=True)
class SetUp:
    """A steering as somebody asked for it: what is wanted, of which SAE or set, and the words for the place."""

    sae: AnySae
    wanted: Wanted
    location: str = "auto"
    stream: str = "auto"


@dataclass(frozen=True)
class Planned:
    """Interventions that make one steering, one for each member, and `lines` of what is to be told of a set."""

    members: Sequence[Member]
    interventions: Sequence[Intervention]
    lines: Sequence[str]

    @property
    def place(self) -> str:
        """Where it acts, for people."""
        sites = [str(item.site) for item in self.interventions]
        return sites[0] if len(sites) == 1 else f"{len(sites)} places: {', '.join(sites)}"


@dataclass(frozen=True)
class _Part:
    """A member's features in its own numbers."""

    member: Member
    features: list[Edit]
    replaces: list[Edit]
    gate: list[Edit]


def _own(member: Member, edits: Sequence[Edit]) -> list[Edit]:
    return [replace(edit, feature=edit.feature - member.first) for edit in edits if edit.feature in member]


def _nothing(sae: SaeSet, members: Sequence[Member], parts: Sequence[_Part], method: Method) -> str:
    if any(part.features and (part.replaces or not METHODS[method].needs_replaces) for part in parts):
        return (
            f"where_active: no place of {sae.name} has both features to steer with and some of these; find both lists "
            "with TopActivatingFeatures on this set."
        )
    if any(part.features for part in parts):
        return (
            f"replaces: no place of {sae.name} has both features to put in and features to take out, which {method!r} "
            "needs; find both lists with TopActivatingFeatures on this set."
        )
    places = ", ".join(str(member.site) for member in members)
    return f"features: none of them is at the places asked for, {places}; choose 'auto' for all of {sae.name}."


def _left_out(sae: SaeSet, members: Sequence[Member], parts: Sequence[_Part], wanted: Wanted) -> list[str]:
    """A line for each place that has one of two lists only, and one for features that the location leaves out."""
    lines = []
    for part in parts if METHODS[wanted.method].needs_replaces else ():
        if part.features and not part.replaces:
            lines.append(f"Left out: {part.member.site} has features to put in, but none to take out.")
        elif part.replaces and not part.features:
            lines.append(f"Left out: {part.member.site} has features to take out, but none to put in.")
    lines += [
        f"Left out: {part.member.site} has features to put in, but none in where_active."
        for part in parts
        if wanted.gate and part.features and not part.gate
    ]
    edits = [*wanted.features, *wanted.replaces, *wanted.gate.edits]
    elsewhere = {str(sae.member_of(edit.feature).site) for edit in edits if not any(edit.feature in m for m in members)}
    if elsewhere:
        lines.append(f"Left out by location and stream: the features at {', '.join(sorted(elsewhere))}.")
    return lines


PERSISTING: tuple[Point, ...] = ("input", "block")  # what is changed here is what the next place reads


def spread(total: float, method: Method, site: Site, sites: Sequence[Site]) -> float:
    """The strength at `site`, one of `sites`, that makes them act together as one place with the strength `total`.

    **Contributions** (attention, MLP, update): each place takes the total. What is added up in the residual stream is
    the blocks' contributions, so the same part of each is that part of their sum.

    **Block inputs and outputs**: what one place changes, the next one finds changed, so the n of a stream share the
    total. A push accumulates: each takes total / n. What takes out a part leaves 1 - part each time: each takes
    1 - (1 - total)^(1/n), after which 1 - total is left; that holds for a negative total, which adds to what is there.
    A total of 1 or more is taken whole by each: the first leaves nothing, or the opposite, for those behind. `scale`
    has what is left as its strength: 1 - total there. `set` fixes a value, at each place the same.

    Other rules, to measure against this one: equal (each takes the total everywhere), shared everywhere (block outputs'
    rule at contributions too), by norm (in proportion to ‖Δ‖/‖x‖ of each place alone). This function, and what a
    method has as `shared`, is all there is to replace.
    """
    sharing = [other for other in sites if other.point in PERSISTING and _same_stream(site, other)]
    places = len(sharing) if site.point in PERSISTING else 1
    return METHODS[method].shared(total, places)


def _same_stream(one: Site, other: Site) -> bool:
    streams = {one.stream, other.stream}
    return len(streams) == 1 or "joint" in streams

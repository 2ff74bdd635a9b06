"""One total strength over several places, so that it means what it means at one."""

from __future__ import annotations

from collections.abc import Sequence

from ..places.site import Point, Site
from .edits import PUSHING, Method

PERSISTING: tuple[Point, ...] = ("block",)  # what is changed here is what the next place reads
REMOVING: tuple[Method, ...] = ("swap", "scale", "project_out")  # take a part of what they find


def spread(total: float, method: Method, site: Site, sites: Sequence[Site]) -> float:
    """The strength at `site`, one of `sites`, that makes them act together as one place with the strength `total`.

    **Contributions** (attention, MLP, update): each place takes the total. What is added up in the residual stream is
    the blocks' contributions, so the same part of each is that part of their sum.

    **Block outputs**: what one place changes, the next one finds changed, so the n outputs of a stream share the total.
    A push accumulates: each takes total / n. What takes out a part leaves 1 - part each time: each takes
    1 - (1 - total)^(1/n), after which 1 - total is left; that holds for a negative total, which adds to what is there.
    A total of 1 or more is taken whole by each: the first leaves nothing, or the opposite, for those behind. `scale`
    has what is left as its strength: 1 - total there. `set` fixes a value, at each place the same.

    Other rules, to measure against this one: equal (each takes the total everywhere), shared everywhere (block outputs'
    rule at contributions too), by norm (in proportion to ‖Δ‖/‖x‖ of each place alone). This function is all there is to
    replace.
    """
    sharing = [other for other in sites if other.point in PERSISTING and _same_stream(site, other)]
    places = len(sharing) if site.point in PERSISTING else 1
    if method in PUSHING:
        return total / places
    if method not in REMOVING or places == 1:
        return total
    left = total if method == "scale" else 1 - total
    if left <= 0:
        return total
    return left ** (1 / places) if method == "scale" else 1 - left ** (1 / places)


def _same_stream(one: Site, other: Site) -> bool:
    streams = {one.stream, other.stream}
    return len(streams) == 1 or "joint" in streams

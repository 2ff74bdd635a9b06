"""A feature's usable range: from the smallest strength that changes the picture to the largest before it falls apart.

Three numbers of a short sampling are compared with the unsteered one: how far the prediction moved, how much of it
left the range of values it had, and ‖Δ‖/‖x‖ inside the model. Between the two ends, 1.0 is put where most of the
change that the range allows has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.moment import OnProgress, unheard
from ..places.site import Site
from .delta import Steering
from .edits import Calibration, Edit, Method
from .host_calls import Draw, Steered, draw_each
from .intervention import Intervention
from .methods import METHODS
from .summary import LARGE_DELTA

VISIBLE = 0.1  # change from which a picture looks different
UNRELATED = 0.8  # change at which little is left of the unsteered picture; two unrelated ones have 1
OUTSIDE = 0.1  # share of the prediction's values outside the range of the unsteered one
MARGIN = 0.1  # by which values may leave that range, as a part of it
CLEAR = 0.75  # of the change at the upper end, where 1.0 is put
MOST_DOUBLINGS = 10
HALVINGS = 4
MOST_READINGS = MOST_DOUBLINGS + 3 * HALVINGS


class Reading(NamedTuple):
    """What one strength did to a prediction."""

    change: float  # distance from the unsteered prediction, over hypot(both predictions' distances from their means)
    outside: float  # share of values outside the unsteered range
    ratio: float  # mean ‖Δ‖/‖x‖

    @property
    def broken(self) -> bool:
        return not (self.change <= UNRELATED and self.outside <= OUTSIDE and self.ratio <= LARGE_DELTA)  # NaN breaks


def compare(steered: Tensor, unsteered: Tensor, ratio: float) -> Reading:
    """Predictions (batch, channels, height, width); the mean over the batch."""
    space = tuple(range(2, unsteered.ndim))
    # of two unrelated pictures the squared distance is the sum of both squared contrasts: a change of 1
    contrasts = [
        (picture - picture.mean(space, keepdim=True)).flatten(1).norm(dim=1) for picture in (steered, unsteered)
    ]
    change = (steered - unsteered).flatten(1).norm(dim=1) / torch.hypot(*contrasts).clamp_min(1e-12)
    low, high = unsteered.amin(space, keepdim=True), unsteered.amax(space, keepdim=True)
    margin = MARGIN * (high - low)
    outside = (steered < low - margin) | (steered > high + margin)
    return Reading(float(change.mean()), float(outside.float().mean()), ratio)


def calibrate(method: Method, measure: Callable[[float], Reading]) -> Calibration | None:
    """The range of a feature whose strengths `measure` tries; None where nothing that can be tried changes the picture.

    Both ends and 1.0 are found by doubling, then halving: at most MOST_READINGS strengths, and none whose
    answer follows from another's.
    """
    pursuit = _Pursuit(method)
    while pursuit.asks is not None:
        pursuit.hear(measure(pursuit.asks))
    return pursuit.found


def calibrate_features(
    draw: Draw,
    edits: Sequence[Edit],
    method: Method,
    steering: Callable[[Edit, float], Intervention],
    on_progress: OnProgress = unheard,
) -> dict[int, Calibration | None]:
    """The range of each feature, each steered alone; None for those that change nothing.

    `draw` makes short drawings, best as latents. `steering` tells how one strength of a feature steers, see `alone`.
    """
    if not edits:
        raise ValueError("features: the list is empty; connect SAEFeature or TopActivatingFeatures.")
    pursuits = [_Pursuit(method) for _ in edits]
    total, done = 1 + len(edits) * MOST_READINGS, 0
    unsteered: Tensor | None = None  # drawn once, with the first strength of each feature
    while waiting := [
        (edit, pursuit, pursuit.asks) for edit, pursuit in zip(edits, pursuits, strict=True) if pursuit.asks is not None
    ]:
        several = [Steered([steering(edit, strength)]) for edit, _, strength in waiting]
        first = [Steered()] if unsteered is None else []
        drawings = draw_each(draw, [*first, *several], on_progress, done, total)
        if unsteered is None:
            unsteered = next(drawings).result
        for (_, pursuit, _), drawn in zip(waiting, drawings, strict=True):
            pursuit.hear(compare(drawn.result, unsteered, drawn.ratio))
        done += len(first) + len(several)
    return {edit.feature: pursuit.found for edit, pursuit in zip(edits, pursuits, strict=True)}


def alone(
    sae: SparseAutoencoder, site: Site, method: Method, replaces: Sequence[Edit] = ()
) -> Callable[[Edit, float], Intervention]:
    """Steering with one feature: its own strength and unit do not count, the strength given is of the token's norm."""

    def steering(edit: Edit, strength: float) -> Intervention:
        plain = replace(edit, strength=1.0, unit=None)
        return Intervention(Steering(sae, [plain], method, strength, "token_norm", replaces), site)

    return steering


def calibrated_methods() -> list[Method]:
    """Those whose strength has a range to be found."""
    return [name for name, traits in METHODS.items() if traits.first_strength is not None]


def _first_strength(method: Method) -> float:
    """What the search begins with; ValueError where the method cannot be calibrated."""
    first = METHODS[method].first_strength if method in METHODS else None
    if first is None:
        raise ValueError(f"method: {method!r} cannot be calibrated; use one of {', '.join(calibrated_methods())}.")
    return first


class _Pursuit:
    """The search for one feature's range, which asks for one reading after the other."""

    def __init__(self, method: Method) -> None:
        self._known: dict[float, Reading] = {}
        self._search = _range(method, self._known)
        self.found: Calibration | None = None
        self.asks: float | None = next(self._search)  # the strength of which it waits to hear; None at its end

    def hear(self, reading: Reading) -> None:
        """What the strength that it asked for did."""
        if self.asks is None:
            raise RuntimeError("the search is at its end")
        self._known[self.asks] = reading
        try:
            self.asks = self._search.send(reading)
        except StopIteration as end:
            self.found, self.asks = end.value, None


def _range(method: Method, known: Mapping[float, Reading]) -> Generator[float, Reading, Calibration | None]:
    high, reading = yield from _upper_end(_first_strength(method))
    if reading.change < VISIBLE:
        return None
    clear = yield from _where(max(CLEAR * reading.change, VISIBLE), high, known)
    low = yield from _where(VISIBLE, clear, known)
    return Calibration(method, low, clear, high)


def _upper_end(first: float) -> Generator[float, Reading, tuple[float, Reading]]:
    """The largest strength found that does not break the picture, and what it did."""
    good, reading = 0.0, Reading(0.0, 0.0, 0.0)
    strength = first
    for _ in range(MOST_DOUBLINGS):
        found = yield strength
        if found.broken:
            break
        good, reading, strength = strength, found, 2 * strength
    else:
        return good, reading
    bad = strength
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        found = yield middle
        if found.broken:
            bad = middle
        else:
            good, reading = middle, found
    return good, reading


def _where(change: float, high: float, known: Mapping[float, Reading]) -> Generator[float, Reading, float]:
    """The smallest strength found between 0 and `high` that changes so much; `high` does."""
    low = 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = _told(known, middle, change)
        if reached is None:
            reached = (yield middle).change >= change
        if reached:
            high = middle
        else:
            low = middle
    return high


def _told(known: Mapping[float, Reading], strength: float, change: float) -> bool | None:
    """What readings tell of another strength, since more of it changes more: whether it changes so much, if they do."""
    if any(reading.change >= change for less, reading in known.items() if less <= strength):
        return True
    if any(reading.change < change for more, reading in known.items() if more >= strength):
        return False
    return None

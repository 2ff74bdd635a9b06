"""A feature's usable range: from the smallest strength that changes the picture to the largest before it falls apart.

Three numbers of a short sampling are compared with the unsteered one: how far the prediction moved, how much of it
left the range of values it had, and ‖Δ‖/‖x‖ inside the model. Between the two ends, 1.0 is put where most of the
change that the range allows has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.progress import OnProgress, steps_of, unheard
from ..places.site import Site
from .delta import Steering
from .draw import Draw, Drawn
from .edits import Calibration, Edit, Method
from .intervention import Intervention
from .record import LARGE_DELTA

VISIBLE = 0.1  # change from which a picture looks different
UNRELATED = 0.8  # change at which little is left of the unsteered picture; two unrelated ones have 1
OUTSIDE = 0.1  # share of the prediction's values outside the range of the unsteered one
MARGIN = 0.1  # by which values may leave that range, as a part of it
CLEAR = 0.75  # of the change at the upper end, where 1.0 is put
FIRST: dict[Method, float] = {"add": 0.05, "boost_if_active": 0.05, "swap": 0.25}  # strengths to begin with
CALIBRATED_METHODS = tuple(FIRST)
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

    Both ends and 1.0 are found by doubling, then halving: at most MOST_READINGS strengths.
    """
    _check_method(method)
    high, reading = _upper_end(FIRST[method], measure)
    if reading.change < VISIBLE:
        return None
    wanted = max(CLEAR * reading.change, VISIBLE)
    clear = _where(lambda s: measure(s).change >= wanted, 0.0, high)
    low = _where(lambda s: measure(s).change >= VISIBLE, 0.0, clear)
    return Calibration(method, low, clear, high)


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
    _check_method(method)
    if not edits:
        raise ValueError("features: the list is empty; connect SAEFeature or TopActivatingFeatures.")
    total, runs = 1 + len(edits) * MOST_READINGS, count()
    unsteered: list[Tensor] = []  # drawn once, when the first steering has turned out to be possible

    def drawn(intervention: Intervention | None) -> Drawn:
        return draw(intervention, None, steps_of(on_progress, next(runs), total))

    def measured(edit: Edit, strength: float) -> Reading:
        intervention = steering(edit, strength)
        if not unsteered:
            unsteered.append(drawn(None).result)
        steered = drawn(intervention)
        return compare(steered.result, unsteered[0], steered.ratio)

    return {edit.feature: calibrate(method, partial(measured, edit)) for edit in edits}


def alone(
    sae: SparseAutoencoder, site: Site, method: Method, replaces: Sequence[Edit] = ()
) -> Callable[[Edit, float], Intervention]:
    """Steering with one feature: its own strength and unit do not count, the strength given is of the token's norm."""

    def steering(edit: Edit, strength: float) -> Intervention:
        plain = replace(edit, strength=1.0, unit=None)
        return Intervention(Steering(sae, [plain], method, strength, "token_norm", replaces), site)

    return steering


def _check_method(method: Method) -> None:
    if method not in CALIBRATED_METHODS:
        raise ValueError(f"method: {method!r} cannot be calibrated; use one of {', '.join(CALIBRATED_METHODS)}.")


def _upper_end(first: float, measure: Callable[[float], Reading]) -> tuple[float, Reading]:
    """The largest strength found that does not break the picture, and what it did."""
    good, reading = 0.0, Reading(0.0, 0.0, 0.0)
    strength = first
    for _ in range(MOST_DOUBLINGS):
        found = measure(strength)
        if found.broken:
            break
        good, reading, strength = strength, found, 2 * strength
    else:
        return good, reading
    bad = strength
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        found = measure(middle)
        if found.broken:
            bad = middle
        else:
            good, reading = middle, found
    return good, reading


def _where(reached: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest strength found in between that reaches it; `high` does."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if reached(middle):
            high = middle
        else:
            low = middle
    return high

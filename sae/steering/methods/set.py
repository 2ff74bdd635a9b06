"""set: Δ = (s - f_k) · d_k.

Clamping a feature: Templeton et al. 2024, https://transformer-circuits.pub/2024/scaling-monosemanticity.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import along
from .steering_method import Change, Prepared, SteeringMethod, Words, each_the_total


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    codes = inputs.coded.codes(x, inputs.features, sigma)
    return Change(along(inputs, at, x, at.strengths - codes))


METHOD = SteeringMethod(
    name="set",
    listed=1,
    words=Words("hold the feature at a value", "把特征固定在某个值"),
    strength_means="the feature is held at this activation everywhere; 0 silences it.",
    change=_change,
    reads=frozenset({"encoder"}),
    each_once=True,
    units=("raw", "mean", "max", "calibrated"),
    shared=each_the_total,
)

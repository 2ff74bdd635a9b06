"""boost_if_active: Δ = s · d_k on the tokens where f_k > 0.

Ours: `add`, kept away from tokens that have nothing to do with the feature.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import pushed
from .steering_method import PUSHED_UNITS, Change, Prepared, SteeringMethod, Words, equal_parts, without_strength


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    codes = inputs.coded.codes(x, inputs.features, sigma)
    return Change(pushed(inputs, at, x, (codes > 0).float()), codes.sum(-1) / at.natural)


METHOD = SteeringMethod(
    name="boost_if_active",
    listed=3,
    words=Words("add where the feature already fires", "只在特征已激活处增加"),
    strength_means="as add, but only where the feature fires already.",
    change=_change,
    reads=frozenset({"encoder"}),
    pushes=True,
    units=PUSHED_UNITS,
    acts_on="features",
    idle=without_strength,
    shared=equal_parts,
    first_strength=0.05,
)

"""scale: Δ = (s - 1) · f_k · d_k. Strength 0 ablates the feature, 2 doubles it.

Ablation of a feature and multiples of its activation: Templeton et al. 2024,
https://transformer-circuits.pub/2024/scaling-monosemanticity.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import along
from .steering_method import Change, Prepared, SteeringMethod, Words, root


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    codes = inputs.coded.codes(x, inputs.features, sigma)
    return Change(along(inputs, at, x, (at.strengths - 1) * codes), codes.sum(-1) / at.natural)


def _all_stay(inputs: SteeringInputs) -> bool:
    return all(strength == 1 for strength in inputs.strengths)


METHOD = SteeringMethod(
    name="scale",
    listed=2,
    words=Words("multiply what is there (0 removes, 2 doubles)", "乘以现有激活（0 去除，2 加倍）"),
    strength_means="1 leaves the feature as it is, 0 takes it out, 2 doubles it, −1 turns it round.",
    change=_change,
    reads=frozenset({"encoder"}),
    each_once=True,
    acts_on="features",
    idle=_all_stay,
    shared=root,
    own_parts=True,
)

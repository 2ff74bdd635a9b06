"""add: Δ = s · d_k.

Activation addition: Turner et al. 2023, https://arxiv.org/abs/2308.10248; with the directions of an SAE's decoder:
Templeton et al. 2024, https://transformer-circuits.pub/2024/scaling-monosemanticity.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import pushed_everywhere
from .steering_method import PUSHED_UNITS, Change, Prepared, SteeringMethod, Words, equal_parts, without_strength


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    return Change(pushed_everywhere(inputs, at, x))


METHOD = SteeringMethod(
    name="add",
    listed=0,
    words=Words("put the feature's direction on every token", "把特征方向加到每个 token"),
    strength_means="0 changes nothing, above 0 brings the feature in, below 0 pushes against it.",
    change=_change,
    pushes=True,
    one_row=True,
    units=PUSHED_UNITS,
    idle=without_strength,
    shared=equal_parts,
    first_strength=0.05,
)

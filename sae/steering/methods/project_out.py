"""project_out: Δ = -s · (x·d̂) d̂, whatever put the direction there.

Directional ablation: Arditi et al. 2024, https://arxiv.org/abs/2406.11717. It is not `scale` 0, which takes out what
the feature put in.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import unit_rows
from .steering_method import Change, Prepared, SteeringMethod, Words, part_of_the_rest, without_strength


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    rows = unit_rows(at.directions)
    return Change(-(at.strengths * (x @ rows.T)) @ rows)


METHOD = SteeringMethod(
    name="project_out",
    listed=4,
    words=Words("remove the direction, whatever put it there", "去除该方向，无论来自何处"),
    strength_means="1 takes the feature's direction out, 0 leaves it, 2 mirrors it, −1 doubles it.",
    change=_change,
    idle=without_strength,
    shared=part_of_the_rest,
    own_parts=True,
)

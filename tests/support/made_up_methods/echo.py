"""echo: Δ = s · (Σ_j w_j f_j) · d_k. A made-up method, of one file: tests put it beside those of the pack."""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import along
from .steering_method import Change, Prepared, SteeringMethod, Words, root, without_strength


def _prepare(inputs: SteeringInputs, sizes: Tensor) -> dict[str, Tensor]:
    return {"weights": inputs.weights}


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    heard = (at.own["weights"] * inputs.coded.codes(x, inputs.replaced, sigma)).sum(-1, keepdim=True)
    return Change(along(inputs, at, x, at.strengths * heard), heard.squeeze(-1) / at.natural)


METHOD = SteeringMethod(
    name="echo",
    listed=8,
    words=Words("put the features in as loudly as those of 'replaces' are heard", "回声"),
    strength_means="1 is as loud, 0 silent.",
    change=_change,
    warning="echo is made up.",
    reads=frozenset({"encoder"}),
    needs_replaces=True,
    each_once=True,
    units=("raw", "mean"),
    prepare=_prepare,
    acts_on="replaces",
    idle=without_strength,
    shared=root,
    own_parts=True,
    first_strength=0.125,
)

"""swap: Δ = s · (g · Σ_k w_k m_k d_k - Σ_j w_j f_j d_j), with g = Σ_j w_j f_j / Σ_j w_j m_j.

The features j of `replaces` are taken out where they fire, and the features k are put there, as strongly as j fire: g
is their level at a token against their mean m over all tokens. w are the edits' own strengths. With features and
strengths from two contrasts, s = 1 moves the mean over all tokens by the natural difference of two prompts.

Ours; docs/evidence.md measures it against the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..steering_inputs import SteeringInputs
from .steering_method import Change, Prepared, SteeringMethod, Words, part_of_the_rest


def _prepare(inputs: SteeringInputs, sizes: Tensor) -> dict[str, Tensor]:
    strengths = torch.tensor(inputs.strengths, dtype=torch.float32)
    own = torch.tensor([abs(edit.strength) for edit in inputs.edits])
    common = (own * sizes).sum() / own.sum() if own.any() else torch.ones(())  # of one feature its own size
    return {
        "insert": strengths * sizes * inputs.over_all_tokens(inputs.edits) / inputs.level_of_replaces(),  # (n,)
        "replaced": inputs.sae.direction(inputs.replaced),  # (r, d_in)
        "weights": inputs.weights,  # (r,)
        "removal": inputs.strength * common,  # (), how many times over the replaced features are taken out
    }


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    found = at.own["weights"] * inputs.coded.codes(x, inputs.replaced, sigma)
    put_in = (found.sum(-1, keepdim=True) * at.own["insert"]) @ at.directions
    shift = put_in - at.own["removal"] * found @ at.own["replaced"]
    return Change(shift * inputs.sae.token_scale(x), found.sum(-1) / at.natural)


def _idle(inputs: SteeringInputs) -> bool:
    return inputs.strength == 0


METHOD = SteeringMethod(
    name="swap",
    listed=6,
    words=Words(
        "take the features of 'replaces' out where they fire and put these there as strongly (strength 1 is the "
        "natural amount)",
        "在 replaces 的特征激活处将其取出，并以同等强度放入这些特征（强度 1 为自然量）",
    ),
    strength_means="1 puts the feature in as strongly as those fire that it replaces, 0 leaves it out.",
    change=_change,
    reads=frozenset({"encoder"}),
    needs=("mean", "density"),
    needs_replaces=True,
    check=SteeringInputs.level_of_replaces,
    units=("calibrated",),
    prepare=_prepare,
    acts_on="replaces",
    idle=_idle,
    shared=part_of_the_rest,
    first_strength=0.25,
)

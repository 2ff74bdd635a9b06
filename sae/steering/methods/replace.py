"""replace: Δ = s · [h ≥ 1/2] · (max(1, h) · Σ_k w_k l_k d_k - Σ_j w_j f_j d_j), with h = Σ_j w_j f_j / Σ_j w_j a_j.

Detect, then replace (arXiv 2606.31699): a token counts as having the features j of `replaces` where they fire at least
half as strongly as they do where they fire, a being that mean. There they are taken out, and the features k are put in
as strongly as they naturally stand in such a token, however faint the others were; every other token stays as it is.
l_k = m_k · Σ_j w_j a_j / Σ_j w_j m_j, with m the means over all tokens, so that at h = 1 it is what `swap` does. There
is no strength to tune: s = 1 replaces.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..steering_inputs import SteeringInputs
from .steering_method import Change, Prepared, SteeringMethod, Words

DETECTED = 0.5  # of their mean where they fire: as strongly the features of `replaces` must fire at a token


def _prepare(inputs: SteeringInputs, sizes: Tensor) -> dict[str, Tensor]:
    own = torch.tensor([edit.strength for edit in inputs.edits], dtype=torch.float32)
    active = (inputs.weights * inputs.measured(inputs.replaces, "mean")).sum()
    return {
        "insert": own * inputs.over_all_tokens(inputs.edits) * active / inputs.level_of_replaces(),  # (n,)
        "replaced": inputs.sae.direction(inputs.replaced),  # (r, d_in)
        "weights": inputs.weights,  # (r,)
        "active": active,  # ()
        "strength": torch.tensor(float(inputs.strength)),  # ()
    }


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    found = at.own["weights"] * inputs.coded.codes(x, inputs.replaced, sigma)
    height = found.sum(-1, keepdim=True) / at.own["active"]
    put_in = height.clamp_min(1) * at.own["insert"] @ at.directions
    shift = at.own["strength"] * (height >= DETECTED) * (put_in - found @ at.own["replaced"])
    return Change(shift * inputs.sae.token_scale(x), found.sum(-1) / at.natural)


def _idle(inputs: SteeringInputs) -> bool:
    return inputs.strength == 0


METHOD = SteeringMethod(
    name="replace",
    listed=7,
    words=Words(
        "at tokens where the features of 'replaces' clearly fire, take them out and put these in at their own natural "
        "amount; other tokens stay as they are",
        "在 replaces 的特征明显激活的 token 上将其取出，并按这些特征自身的自然量放入；其他 token 保持不变",
    ),
    strength_means="1 replaces, 0 changes nothing; between them is part of the way.",
    change=_change,
    reads=frozenset({"encoder"}),
    needs=("mean", "density"),
    needs_replaces=True,
    check=SteeringInputs.level_of_replaces,
    prepare=_prepare,
    acts_on="replaces",
    idle=_idle,
)

"""surgery: Δ = decode(f with f_k + s) - x.

The activation is replaced by the SAE's reconstruction, so what the SAE cannot express is lost; adding its
reconstruction error back gives `add` exactly. Replacing activations by reconstructions: Bricken et al. 2023,
https://transformer-circuits.pub/2023/monosemantic-features.
"""

from __future__ import annotations

from torch import Tensor

from ..steering_inputs import SteeringInputs
from .shift import pushed_everywhere
from .steering_method import PUSHED_UNITS, Change, Prepared, SteeringMethod, Words, equal_parts


def _change(inputs: SteeringInputs, at: Prepared, x: Tensor, sigma: float | None) -> Change:
    # decode is affine, so decode(f + a) = decode(f) + a·D: the codes never need to be dense
    return Change(inputs.coded.reconstruct(x, sigma) - x + pushed_everywhere(inputs, at, x))


METHOD = SteeringMethod(
    name="surgery",
    listed=5,
    words=Words(
        "replace the activation by the SAE's reconstruction with the feature added; it loses what the SAE cannot "
        "express, so prefer add",
        "用 SAE 的重建代替激活并加入特征；会丢失 SAE 无法表达的内容，宜用 add",
    ),
    strength_means="as add, but 0 too loses what the SAE cannot express.",
    change=_change,
    warning="surgery loses what the SAE cannot express; add gives the same shift without that loss.",
    reads=frozenset({"encoder", "decoder"}),
    pushes=True,
    units=PUSHED_UNITS,
    shared=equal_parts,
)

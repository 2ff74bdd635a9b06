"""Directions put together into a shift of the activations: by codes, or by a fraction of each token's norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..steering_inputs import SteeringInputs
from .steering_method import Prepared


def unit_rows(directions: Tensor) -> Tensor:
    """Directions (n, d_in) at length 1; an empty one stays empty."""
    return directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def common_length(directions: Tensor, strengths: Tensor, shared: Sequence[bool]) -> Tensor:
    """(n,): what each strength is multiplied by so that the `shared` ones together push no farther than the largest."""
    chosen = torch.tensor(shared)
    together = (strengths[chosen].unsqueeze(-1) * unit_rows(directions[chosen])).sum(0).norm()
    largest = strengths[chosen].abs().amax() if chosen.any() else strengths.new_zeros(())
    part = torch.where(together > largest, largest / together.clamp_min(1e-12), 1.0)
    return torch.where(chosen, part, 1.0)


def along(inputs: SteeringInputs, at: Prepared, x: Tensor, amounts: Tensor) -> Tensor:
    """Amounts (..., n) of codes as a shift of the activations (..., d_in)."""
    return (amounts @ at.directions) * inputs.sae.token_scale(x)


def pushed(inputs: SteeringInputs, at: Prepared, x: Tensor, where: Tensor) -> Tensor:
    """The strengths along their directions, at the tokens and edits `where` is 1 (..., n)."""
    amounts, of_norm = at.strengths * where, inputs.of_norm
    if of_norm == {False}:
        return along(inputs, at, x, amounts)
    # not by way of codes: an SAE's normalisation has no finite inverse at a token whose entries are all equal
    shift = (amounts * at.normed * x.norm(dim=-1, keepdim=True)) @ unit_rows(at.directions)
    return shift if of_norm == {True} else shift + along(inputs, at, x, amounts * (1 - at.normed))


def pushed_everywhere(inputs: SteeringInputs, at: Prepared, x: Tensor) -> Tensor:
    """The strengths along their directions, at every token."""
    return pushed(inputs, at, x, x.new_ones(*x.shape[:-1], len(inputs.edits)))

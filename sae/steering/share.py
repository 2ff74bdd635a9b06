"""Directions at length 1, and how several of them share one length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit_rows(directions: Tensor) -> Tensor:
    """Directions (n, d_in) at length 1; an empty one stays empty."""
    return directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def share(directions: Tensor, strengths: Tensor, shared: Sequence[bool]) -> Tensor:
    """(n,): what each strength is multiplied by so that the `shared` ones together push no farther than the largest."""
    chosen = torch.tensor(shared)
    together = (strengths[chosen].unsqueeze(-1) * unit_rows(directions[chosen])).sum(0).norm()
    largest = strengths[chosen].abs().amax() if chosen.any() else strengths.new_zeros(())
    part = torch.where(together > largest, largest / together.clamp_min(1e-12), 1.0)
    return torch.where(chosen, part, 1.0)

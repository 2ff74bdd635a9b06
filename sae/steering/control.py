"""The control of every claim about steering: the same push, along a direction that means nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..places.moment import Moment
from ..places.site import Site
from .intervention import ActiveIntervention


class RandomDirection:
    """A tap that moves each token as far as another tap would, along one random unit vector."""

    def __init__(self, tap: ActiveIntervention, seed: int) -> None:
        self.tap = tap
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(tap.steering.sae.d_in, generator=generator)
        self.direction = direction / direction.norm()

    @property
    def site(self) -> Site:
        return self.tap.site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        self.tap.ready(batch, moment, device)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        shift = (self.tap(x, moment, activation).float() - x.float()).norm(dim=-1, keepdim=True)
        return x + (shift * self.direction.to(x.device)).to(x.dtype)

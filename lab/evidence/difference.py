"""The control without an SAE: the difference of two prompts' mean activations, added to every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sae.demo.model import sample
from sae.demo.shapes import Prompt
from sae.hosts.diffusers import tapped
from sae.places.moment import COND, Moment
from sae.places.site import Site
from sae.steering.record import SteeringRecord

from ..judge.steer import STEPS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


@dataclass(frozen=True)
class Shift:
    """A tap that adds `difference` (tokens or 1, d_in) to the tokens of its site."""

    site: Site
    difference: Tensor
    record: SteeringRecord = field(repr=False)

    def ready(self, batch: int, moment: Moment, device: object) -> None:
        """Keeps nothing from call to call."""

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        delta = self.difference.expand_as(x)
        self.record.note(moment.sigma, x, delta, x + delta, x.new_ones(x.shape[:2]))
        return x + delta


def draw_shifted(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    differences: Mapping[Site, Tensor],
) -> tuple[Tensor, SteeringRecord]:
    """Latents (batch, 16, 16, 16) of drawings with each difference added at its site, and what that did."""
    record = SteeringRecord()
    taps = [Shift(site, difference, record) for site, difference in differences.items()]
    with tapped(transformer, taps, (COND,)) as record.reaches:
        return sample(transformer, prompts, seeds, STEPS), record

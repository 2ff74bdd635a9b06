"""What is seen at the SAEs' sites while a prompt is drawn: which features fire, and the tokens' mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from sae.demo.shapes import Prompt
from sae.demo.shapes_model import sample
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.features import FeatureReader, FeatureTally
from sae.finding.two_sides import MeanReader
from sae.hosts.diffusers import capture, tapped
from sae.places.moment import COND, Moment
from sae.places.site import Site, resolve_site
from sae.steering.record import SteeringRecord

from ..judge.steer import STEPS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


class Seen:
    """One prompt at one SAE's site: the `see` of an Observer."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.site: Site = resolve_site("auto", "auto", sae.site)
        self._reader = FeatureReader(sae, self.site)
        self._tokens = MeanReader(self.site, by_token=self.site.stream == "text")

    def __call__(self, x: Tensor, moment: Moment) -> None:
        self._reader(x, moment)
        self._tokens(x, moment)

    @property
    def tally(self) -> FeatureTally:
        return self._reader.tally

    @property
    def mean(self) -> Tensor:
        """Mean over pictures and steps: of a text token by token (tokens, d_in), of a picture over all (1, d_in)."""
        mean = self._tokens.mean.float()
        return mean if self.site.stream == "text" else mean.unsqueeze(0)


def see_prompts(
    transformer: FluxTransformer2DModel,
    saes: Mapping[str, SparseAutoencoder],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
) -> dict[str, Seen]:
    """By SAE's name, all in one run: as many prompts as seeds."""
    found = {name: Seen(sae) for name, sae in saes.items()}
    with ExitStack() as stack:
        for seen in found.values():
            stack.enter_context(capture(transformer, seen.site, seen))
        sample(transformer, prompts, seeds, STEPS)
    return found


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

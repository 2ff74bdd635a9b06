"""Finding and steering features of the Shapes model with diffusers, as the nodes do it in ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from sae.demo.model import sample
from sae.demo.shapes import Prompt
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.features import FeatureReader, FeatureTally, RankedFeature, rank_features
from sae.hosts.diffusers import capture, tapped, window_of
from sae.hosts.diffusers import straight_percent_to_sigma as to_sigma
from sae.places.moment import COND
from sae.places.site import resolve_site
from sae.steering.control import RandomDirection
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

STEPS = 8
OnStep = Callable[[float], None]


def tally_prompt(
    transformer: FluxTransformer2DModel,
    sae: SparseAutoencoder,
    prompt: Prompt,
    seeds: Sequence[int],
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
) -> FeatureTally:
    """What fires at the SAE's site while the prompt is drawn from each seed."""
    site = resolve_site("auto", "auto", sae.site)
    reader = FeatureReader(sae, site, mask)
    with capture(transformer, site, reader):
        sample(transformer, [prompt] * len(seeds), seeds, STEPS, on_step)
    return reader.tally


def contrast(positive: FeatureTally, baseline: FeatureTally, count: int) -> list[RankedFeature]:
    """TopActivatingFeatures with a baseline: the features whose mean activation is larger than in the baseline."""
    return rank_features(positive, "mean", count, baseline)


def draw_steered(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    interventions: Sequence[Intervention],
    random_direction: int | None = None,
    on_step: OnStep | None = None,
    steps: int = STEPS,
) -> tuple[Tensor, SteeringRecord]:
    """Latents (batch, 16, 16, 16) of steered drawings, and what the steering did.

    With `random_direction` each Δ keeps its length at every token but points along one random direction, drawn from
    that seed: the control of every claim.
    """
    record = SteeringRecord()
    active = [item.begin(record, window_of(item.schedule, to_sigma)) for item in interventions]
    taps = active if random_direction is None else [RandomDirection(tap, random_direction) for tap in active]
    with tapped(transformer, taps, (COND,)):
        return sample(transformer, prompts, seeds, steps, on_step), record

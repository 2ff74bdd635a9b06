"""Finding and steering features of the Shapes model with diffusers, as the nodes do it in ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count as counting
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sae.demo.shapes import Prompt
from sae.demo.shapes_model import embed_prompts, noise_for, pack, predict, sample
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.effect import rank_by_effect, tried_steps
from sae.finding.features import FeatureReader, FeatureTally, RankedFeature, rank_features
from sae.hosts.diffusers import Predicting, capture, drawing, steer
from sae.places.moment import OnStep
from sae.places.site import resolve_site
from sae.steering.host_calls import Draw, Level, Which
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

STEPS = 8
OnSigma = Callable[[float], None]  # hears each noise level before the step from there


def tally_prompt(
    transformer: FluxTransformer2DModel,
    sae: SparseAutoencoder,
    prompt: Prompt,
    seeds: Sequence[int],
    mask: Tensor | None = None,
    on_step: OnSigma | None = None,
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


def effect(
    transformer: FluxTransformer2DModel,
    sae: SparseAutoencoder,
    prompt: Prompt,
    baseline: Prompt,
    found: Sequence[RankedFeature],
    count: int,
    seed: int = 0,
) -> list[RankedFeature]:
    """TopActivatingFeatures by effect: of `found`, which `contrast` gave, those that act most on one picture."""
    texts = {"prompt": embed_prompts([prompt]), "baseline": embed_prompts([baseline])}
    levels, tried = [], tried_steps(STEPS)
    for step, (sigma, tokens) in enumerate(trajectory(transformer, prompt, seed)):
        levels += [Level(sigma, tokens)] if step in tried else []

    def forward(which: Which, tokens: Tensor, sigma: float) -> Tensor:
        rows = len(tokens)
        return predict(transformer, tokens, tokens.new_full((rows,), sigma), texts[which].expand(rows, -1, -1))

    site = resolve_site("auto", "auto", sae.site)
    best = rank_by_effect(Predicting(transformer, forward), levels, [(sae, site, row) for row in found], count)
    return [row for *_, row in best]


@torch.no_grad()
def trajectory(transformer: FluxTransformer2DModel, prompt: Prompt, seed: int) -> Iterator[tuple[float, Tensor]]:
    """Each sigma of a run, and the tokens (1, 64, 64) before the step from there."""
    text, tokens = embed_prompts([prompt]), pack(noise_for([seed]))
    for now, after in pairwise(torch.linspace(1, 0, STEPS + 1)):
        yield float(now), tokens
        tokens = tokens + (after - now) * predict(transformer, tokens, now.expand(1), text)


def draw_steered(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    interventions: Sequence[Intervention],
    random_direction: int | None = None,
) -> tuple[Tensor, SteeringRecord]:
    """Latents (batch, 16, 16, 16) of steered drawings, and what the steering did.

    With `random_direction` each Δ keeps its length at every token but points along one random direction, drawn from
    that seed: the control of every claim.
    """
    with steer(transformer, interventions, random_direction=random_direction) as record:
        return sample(transformer, prompts, seeds, STEPS), record


def drawing_of(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steps: int = STEPS,
    decoder: nn.Module | None = None,
) -> Draw:
    """What sweeps and calibrations draw with: pictures (batch, 3, 128, 128), or latents without a decoder."""

    def draw(on_step: OnStep) -> Tensor:
        begun = counting(1)
        latents = sample(transformer, prompts, seeds, steps, lambda sigma: on_step(next(begun) / steps, None))
        if decoder is None:
            return latents
        with torch.no_grad():
            return decoder(latents)

    return drawing(transformer, draw)

"""Does a colour's feature fire on the shape of that colour? Heat against the drawing's own mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae.demo.shapes import COLOURS, PICTURE_SIZE, Prompt, draw, held_out_prompts, training_prompts
from sae.demo.shapes_model import embed_prompts, encode_pictures, noise_for, pack, predict
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.heatmap import HeatReader, on_picture, region_of
from sae.hosts.diffusers import capture
from sae.places.site import resolve_site

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

SIGMA = 0.5
THRESHOLD = 0.3
FINDING_EVERY = 6  # takes every so many of the training prompts to find the features with


class Heat(NamedTuple):
    """Mean intersection over union with the shape, over held-out drawings."""

    own: float  # heat of the drawing's own colour's feature
    other: float  # of another colour's feature, the control
    ceiling: float  # of the shape itself in whole tokens: more than this no heat can reach
    pictures: int


def look(
    transformer: FluxTransformer2DModel, sae: SparseAutoencoder, prompts: Sequence[Prompt], features: Sequence[int]
) -> tuple[HeatReader, Tensor]:
    """What fires on drawings, noised back to SIGMA, and the shapes' masks (batch, 128, 128) bool."""
    pictures, coverage = draw(list(prompts))
    noise = noise_for(range(len(prompts)))
    noisy = (1 - SIGMA) * encode_pictures(pictures) + SIGMA * noise
    site = resolve_site("auto", "auto", sae.site)
    reader = HeatReader(sae, site, features)
    with torch.no_grad(), capture(transformer, site, reader):
        predict(transformer, pack(noisy), torch.full((len(prompts),), SIGMA), embed_prompts(prompts))
    return reader, coverage.squeeze(1) > 0.5


def colour_features(transformer: FluxTransformer2DModel, sae: SparseAutoencoder) -> dict[str, int]:
    """For each colour the feature that fires most above all other colours, on training drawings."""
    prompts = training_prompts()[::FINDING_EVERY]
    heat = look(transformer, sae, prompts, range(sae.d_sae))[0].heat.mean(-1)  # (features, drawings)
    found = {}
    for colour in COLOURS:
        mine = torch.tensor([prompt.colour == colour for prompt in prompts])
        found[colour] = int((heat[:, mine].mean(1) - heat[:, ~mine].mean(1)).argmax())
    return found


def measure_heat(transformer: FluxTransformer2DModel, sae: SparseAutoencoder) -> Heat:
    found = colour_features(transformer, sae)
    prompts = held_out_prompts()
    names = list(COLOURS)
    reader, shapes = look(transformer, sae, prompts, [found[name] for name in names])
    maps = on_picture(reader.cells, (PICTURE_SIZE, PICTURE_SIZE))
    own = [names.index(prompt.colour or "") for prompt in prompts]
    other = [_unlike(found, names, number) for number in own]
    tokens = torch.nn.functional.avg_pool2d(shapes.float().unsqueeze(1), 16) >= 0.5
    whole = tokens.repeat_interleave(16, -1).repeat_interleave(16, -2).squeeze(1)
    rows = range(len(prompts))
    return Heat(
        own=_overlap(torch.stack([maps[own[i], i] for i in rows]), shapes),
        other=_overlap(torch.stack([maps[other[i], i] for i in rows]), shapes),
        ceiling=_overlap(whole.float(), shapes),
        pictures=len(prompts),
    )


def _unlike(found: dict[str, int], names: list[str], own: int) -> int:
    """The next colour that has another feature."""
    following = [*range(own + 1, len(names)), *range(own)]
    return next(number for number in following if found[names[number]] != found[names[own]])


def _overlap(heat: Tensor, shapes: Tensor) -> float:
    region = region_of(heat.unsqueeze(0), THRESHOLD) > 0
    union = (region | shapes).sum((1, 2)).clamp_min(1)
    return float(((region & shapes).sum((1, 2)) / union).mean())

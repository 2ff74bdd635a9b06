"""Real drawings a little changed, on which the judge and the decoder learn what must make no difference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHIFT, SCALE = 0.04, 0.06  # of the picture's side; of its size
NOISE = 0.06  # standard deviation, of pixels in 0..1
SMOOTHED = 0.5  # share of pictures that are smoothed by a pixel or two


def shifted(pictures: Tensor, generator: torch.Generator, shift: float = SHIFT, scale: float = SCALE) -> Tensor:
    """Pictures (n, 3, h, w) in 0..1, each moved and enlarged at random; what comes in from outside is white."""
    count = len(pictures)
    draws = torch.rand(count, 3, generator=generator) * 2 - 1
    grids = torch.zeros(count, 2, 3)
    grids[:, 0, 0] = grids[:, 1, 1] = 1 + scale * draws[:, 2]
    grids[:, :, 2] = 2 * shift * draws[:, :2]
    grid = functional.affine_grid(grids, list(pictures.shape), align_corners=False)
    return 1 - functional.grid_sample(1 - pictures, grid, align_corners=False)


def noised(pictures: Tensor, generator: torch.Generator, noise: float = NOISE) -> Tensor:
    """Pictures (n, 3, h, w), each with noise of a strength of its own, in half of them after smoothing."""
    count = len(pictures)
    smooth = functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < SMOOTHED
    strength = noise * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.where(chosen, smooth, pictures) + strength * torch.randn(pictures.shape, generator=generator)


def coarsely_noised(pictures: Tensor, generator: torch.Generator, noise: float = NOISE) -> Tensor:
    """Noise of spots of 8 px, as a model's mistakes are: wrong colour in a place."""
    count, _, height, width = pictures.shape
    spots = torch.randn(count, 3, height // 8, width // 8, generator=generator)
    strength = noise * torch.rand(count, 1, 1, 1, generator=generator)
    return pictures + strength * functional.interpolate(spots, size=(height, width), mode="bilinear")


def changed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """All of it, in 0..1."""
    pictures = shifted(pictures, generator)
    return coarsely_noised(noised(pictures, generator), generator).clamp(0, 1)

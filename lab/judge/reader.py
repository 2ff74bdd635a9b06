"""Reads the five attributes of a Shapes prompt back from a picture, by rule, so that steering can be judged.

A reading is strict on purpose: an attribute is a word only if the picture would pass for a drawing of that word, else
None. The rules, in order:

1. Background: the median colour of a frame along the border. Unless 4/5 of the frame are close to it the picture has no
   background to tell a shape from, and every attribute is None.
2. Mask: pixels further from the background than half of the way to the shape's colour.
3. Colour: the median inside the mask without its antialiased rim. Unless 4/5 of that inside are close to it (two
   colours, a gradient), colour is None.
4. Shape, place, size: each kind of shape is drawn with the mask's area and centroid and compared with the mask by
   intersection over union (IoU). The best one gives shape, centre and radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sae.demo.shapes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Prompt, draw_coverage

# Distances are Euclidean in RGB 0..1. The two closest colours (orange, yellow) are 0.385 apart: below half of that no
# picture can pass for two names.
COLOUR_TOLERANCE = 0.18
BACKGROUND_TOLERANCE = 0.18  # white, grey and black are 0.87 apart; as strict as for the shape's colour
UNIFORM_SHARE = 0.8  # of the frame, and of the shape's inside, that must agree with its median
FOREGROUND_DISTANCE = 0.25  # from the background; the faintest named pair (purple on grey) is 0.44 apart
SMALLEST_AREA = 0.015  # of the picture; the smallest drawing (small triangle, least radius) covers 0.044
# Circle and square of equal area overlap to an IoU of 0.84, the most any two kinds do. Drawings reach 0.91 and more
# (the least where the border cuts a triangle's corner), and 0.90 as thumbnails of 32 px.
SHAPE_IOU = 0.87
PLACED_IOU = 0.6  # below this, the mask is not one body (two shapes, scattered dots) and has no place or size
PLACE_TOLERANCE = 0.07  # fraction of the picture, in x and y; places are 0.2 apart, drawings jitter far less
SIZE_TOLERANCE = 0.2  # relative; radii from 0.18 to 0.20 are then neither small nor big
FRAME = 1 / 32  # width of the border frame, fraction of the picture
RIM = 1 / 64  # taken off the mask's outline before colours are read


class Readings(NamedTuple):
    """What was read from a batch of pictures."""

    prompts: list[Prompt]
    masks: Tensor  # (batch, 1, side, side) bool: the shape's pixels; empty where no shape was found
    fits: Tensor  # (batch,) best IoU with a drawn shape, 0 where nothing was found


def read_pictures(pictures: Tensor) -> list[Prompt]:
    """One prompt a picture (batch, 3, side, side) in 0..1; an attribute that cannot be read is None."""
    return measure_pictures(pictures).prompts


def shape_masks(pictures: Tensor) -> Tensor:
    """Where the shape is: (batch, 1, side, side) in 0..1, all zero where no shape was found."""
    return measure_pictures(pictures).masks.float()


@torch.no_grad()
def measure_pictures(pictures: Tensor) -> Readings:
    """Readings of pictures (batch, 3, side, side) in 0..1. Raises ValueError for other shapes."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3] or pictures.shape[2] < 64:
        raise ValueError(
            f"pictures: the reader takes square pictures (batch, 3, side, side) of 64 px or more, "
            f"but got {tuple(pictures.shape)}."
        )
    pictures = pictures.float().cpu()
    background, plain = _background(pictures)
    mask = _mask(pictures, background)
    mask &= (plain & (mask.float().mean(dim=(1, 2, 3)) >= SMALLEST_AREA)).view(-1, 1, 1, 1)
    colour, even = _inner_colour(pictures, mask)
    bodies = _best_bodies(mask)
    found = mask.flatten(1).any(dim=1)
    prompts = []
    for i, body in enumerate(bodies):
        ground = _nearest(background[i], BACKGROUNDS, BACKGROUND_TOLERANCE) if plain[i] else None
        if not found[i]:
            prompts.append(Prompt(background=ground))
            continue
        painted = _nearest(colour[i], COLOURS, COLOUR_TOLERANCE) if even[i] else None
        prompts.append(Prompt(painted, body.shape, body.place, body.size, ground))
    return Readings(prompts, mask, torch.tensor([body.fit for body in bodies]))


def _background(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Median colour of the border frame (batch, 3), and whether the frame is plain (batch,) bool."""
    side = pictures.shape[-1]
    width = max(1, round(side * FRAME))
    frame = torch.ones(side, side, dtype=torch.bool)
    frame[width:-width, width:-width] = False
    pixels = pictures[:, :, frame]  # (batch, 3, n)
    colour = pixels.median(dim=-1).values
    near = (pixels - colour[:, :, None]).norm(dim=1) < BACKGROUND_TOLERANCE
    return colour, near.float().mean(dim=1) >= UNIFORM_SHARE


def _mask(pictures: Tensor, background: Tensor) -> Tensor:
    """Pixels on the far side of half way to the shape's own colour: (batch, 1, side, side) bool."""
    distance = (pictures - background[:, :, None, None]).norm(dim=1, keepdim=True)
    rough = distance > FOREGROUND_DISTANCE
    contrast = _masked_median(distance, _shrink(rough))  # (batch, 1), nan where nothing stands out
    return rough & (distance > contrast[:, :, None, None] / 2)


def _inner_colour(pictures: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Median colour (batch, 3) inside the mask, and whether the inside has that one colour (batch,) bool."""
    inside = _shrink(mask)
    colour = _masked_median(pictures, inside)
    near = (pictures - colour[:, :, None, None]).norm(dim=1, keepdim=True) < COLOUR_TOLERANCE
    count = inside.sum(dim=(1, 2, 3))
    share = (near & inside).sum(dim=(1, 2, 3)) / count.clamp_min(1)
    return colour, (count > 0) & (share >= UNIFORM_SHARE)


def _shrink(mask: Tensor) -> Tensor:
    rim = max(1, round(mask.shape[-1] * RIM))
    return functional.max_pool2d((~mask).float(), 2 * rim + 1, stride=1, padding=rim) == 0


def _masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Median over the mask, channel by channel: (batch, c, h, w) and (batch, 1, h, w) to (batch, c)."""
    return values.masked_fill(~mask, float("nan")).flatten(2).nanmedian(dim=-1).values


def _nearest(value: Tensor, named: dict[str, tuple[float, float, float]], tolerance: float) -> str | None:
    distances = {name: float((value - torch.tensor(colour)).norm()) for name, colour in named.items()}
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] < tolerance else None


class _Body(NamedTuple):
    shape: str | None
    place: str | None
    size: str | None
    fit: float


def _best_bodies(mask: Tensor) -> list[_Body]:
    """Compares each mask with every kind of shape of the same area and centroid."""
    area = mask.float().mean(dim=(1, 2, 3)).clamp_min(1e-6)
    centroid = _centroid(mask.float())
    side = mask.shape[-1]
    fits, centres, radii = [], [], []
    for shape in SHAPES:
        unit_area, unit_centroid = _moments(shape)
        radius = (area / unit_area).sqrt()
        centre = centroid - radius[:, None] * unit_centroid
        drawn = draw_coverage([shape] * len(mask), centre, radius, side) > 0.5
        fits.append((drawn & mask).sum(dim=(1, 2, 3)) / (drawn | mask).sum(dim=(1, 2, 3)).clamp_min(1))
        centres.append(centre)
        radii.append(radius)
    best_fit, best = torch.stack(fits).max(dim=0)
    rows = torch.arange(len(mask))
    centre, radius = torch.stack(centres)[best, rows], torch.stack(radii)[best, rows]
    return [_body(SHAPES[best[i]], float(best_fit[i]), centre[i].tolist(), float(radius[i])) for i in rows]


def _body(shape: str, fit: float, centre: Sequence[float], radius: float) -> _Body:
    if fit < PLACED_IOU:
        return _Body(None, None, None, fit)
    offsets = {name: max(abs(centre[0] - x), abs(centre[1] - y)) for name, (x, y) in PLACES.items()}
    place = min(offsets, key=offsets.__getitem__)
    errors = {name: abs(radius / wanted - 1) for name, wanted in SIZES.items()}
    size = min(errors, key=errors.__getitem__)
    return _Body(
        shape if fit >= SHAPE_IOU else None,
        place if offsets[place] < PLACE_TOLERANCE else None,
        size if errors[size] < SIZE_TOLERANCE else None,
        fit,
    )


def _centroid(coverage: Tensor) -> Tensor:
    """(batch, 2): x and y as fractions of the side; the middle for an empty mask."""
    side = coverage.shape[-1]
    axis = (torch.arange(side) + 0.5) / side
    total = coverage.sum(dim=(1, 2, 3))
    x = (coverage.sum(dim=(1, 2)) * axis).sum(dim=1)
    y = (coverage.sum(dim=(1, 3)) * axis).sum(dim=1)
    return torch.where(total[:, None] > 0, torch.stack([x, y], dim=1) / total.clamp_min(1)[:, None], 0.5)


@cache
def _moments(shape: str) -> tuple[float, Tensor]:
    """Area and centroid (2,) of a kind of shape of radius 1 around the origin, measured on a large drawing."""
    radius = 0.25
    coverage = draw_coverage([shape], torch.tensor([[0.5, 0.5]]), torch.tensor([radius]), 512)
    return float(coverage.mean()) / radius**2, (_centroid(coverage)[0] - 0.5) / radius

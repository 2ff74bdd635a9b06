"""Which part of the picture each row of a call is: prompts with an area give the model a crop of the latent.

Core tells a call of the model which prompt each part of the batch is (`uuids`) and from which list it comes
(`cond_or_uncond`), but not its area. The areas are on the prompts that CALC_COND_BATCH is given. One prompt may stand
in several lists, for core gives the other side a copy with the same uuid and area. What a node does to the latent
after that, such as cutting it into tiles, is noticed by its size; where such a part lies is told by its numbers, which
are those of the whole latent there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...places.moment import Crop
from ...places.region import PATCH

PICTURE_KEY, AREAS_KEY, WHOLE_KEY = (f"sae_steering_{name}" for name in ("picture", "areas", "whole"))

LARGER = 1.25  # times the picture's sides, from which on a mask is taken for that of a larger picture

Size = tuple[int, ...]  # height and width of a latent, in its own cells
Box = tuple[int, int, int, int]  # height, width, top, left
Place = tuple[int, int]  # top, left


@dataclass(frozen=True)
class Areas:
    """The prompts of one batch: the latent that their areas are cut from, and each prompt's areas in it."""

    latent: Size
    boxes: Mapping[tuple[int, Any], frozenset[Box]]  # by the number of the list and the prompt's uuid

    @classmethod
    def of(cls, conds: Sequence[Sequence[Mapping[str, Any]] | None], latent: Tensor) -> Areas:
        found: dict[tuple[int, Any], frozenset[Box]] = {}
        for number, prompts in enumerate(conds):
            for prompt in prompts or ():
                box = _box(prompt.get("area"), latent.shape[2:])
                key = number, prompt.get("uuid")
                found[key] = found.get(key, frozenset()) | ({box} if box else set())
        return cls(size_of(latent), found)


def size_of(latent: Tensor) -> Size:
    return tuple(latent.shape[-2:])


def pixels_of(latent: Tensor, form: Any) -> tuple[int, int] | None:
    """Height and width of the picture in pixels, by core's latent format; None of packed latents."""
    if latent.ndim < 4:
        return None
    height, width = size_of(latent)
    ratio = int(getattr(form, "spacial_downscale_ratio", 8))
    return ratio * height, ratio * width


def fitted(mask: Tensor | None, pixels: tuple[int, int] | None) -> list[str]:
    """A sentence where a mask is that of a larger picture than the one that is drawn.

    Nodes that upscale tile by tile run a whole sampling for each, of which nothing tells that it is a part.
    """
    if (
        mask is None
        or pixels is None
        or any(side < LARGER * drawn for side, drawn in zip(mask.shape[-2:], pixels, strict=True))
    ):
        return []
    (height, width), (rows, columns) = mask.shape[-2:], pixels
    return [
        f"The mask is {width}×{height} and the picture {columns}×{rows}, so the mask was fitted to it: where this run "
        "draws a tile of a larger picture, steering is not where the mask is."
    ]


def _box(area: Sequence[Any] | None, dims: Sequence[int]) -> Box | None:
    """The area as core cuts it: at most up to the latent's edge. None where it is the whole latent or no rectangle."""
    if area is None or len(dims) < 2 or isinstance(area[0], str):
        return None
    half = len(area) // 2
    if half > len(dims):
        sizes, starts = area[: len(dims)], area[half : half + len(dims)]
    else:
        sizes, starts = area[:half], area[half:]
    if len(sizes) < 2:
        return None
    top, left = int(starts[-2]), int(starts[-1])
    return min(int(sizes[-2]), dims[-2] - top), min(int(sizes[-1]), dims[-1] - left), top, left


def crops_of(latent: Tensor, options: Mapping[str, Any], patch: int, parts: int) -> tuple[Crop | None, ...]:
    """`crops` of a Moment for one call of the model in equal parts: empty where the latent is the whole picture.

    The picture is what the run samples, or what the call's prompts were given outside of a run. None stands for a part
    that is smaller and whose place follows neither from its prompt nor from its numbers.
    """
    size, areas = size_of(latent), options.get(AREAS_KEY)
    picture: Size = options.get(PICTURE_KEY) or (areas.latent if areas else size)
    if size == picture:
        return ()
    places = _by_prompt(size, picture, options, parts) or [None] * parts
    whole = options.get(WHOLE_KEY)
    if None in places and whole is not None and size_of(whole) == picture and not len(latent) % parts:
        found = [place_in(part, whole) for part in latent.chunk(parts)]
        places = [place or other for place, other in zip(places, found, strict=True)]
    return tuple(_crop(place, picture, patch) for place in places)


def _by_prompt(size: Size, picture: Size, options: Mapping[str, Any], parts: int) -> list[Place | None]:
    """The places of the areas of the call's prompts; none where its parts are not its prompts."""
    areas: Areas | None = options.get(AREAS_KEY)
    lists, prompts = options.get("cond_or_uncond") or (0,), options.get("uuids") or ()
    if areas is None or areas.latent != picture or not len(prompts) == len(lists) == parts:
        return []
    found = [areas.boxes.get(key, frozenset()) for key in zip(lists, prompts, strict=True)]
    fitting = [[box[2:] for box in boxes if box[:2] == size] for boxes in found]
    return [boxes[0] if len(boxes) == 1 else None for boxes in fitting]


def place_in(part: Tensor, whole: Tensor) -> Place | None:
    """Where the pictures of a part, (rows, ..., height, width), lie in those of the whole; None unless one place is it.

    Latents are full of noise, so that a crop is found by its numbers; one that was changed on its way is not.
    """
    height, width = part.shape[-2:]
    if part.shape[1:-2] != whole.shape[1:-2] or height > whole.shape[-2] or width > whole.shape[-1]:
        return None
    whole = whole.to(part.device, part.dtype)
    rows, columns = (whole.shape[-2] - height + 1, whole.shape[-1] - width + 1)
    corners = whole[..., :rows, :columns].flatten(1, -3)  # (pictures, numbers of a cell, rows, columns)
    same = (corners == part[0, ..., 0, 0].flatten()[:, None, None]).all(1).any(0)
    found = [
        (top, left)
        for top, left in same.nonzero().tolist()
        if _holds(whole[..., top : top + height, left : left + width], part)
    ]
    return found[0] if len(found) == 1 else None


def _holds(pictures: Tensor, part: Tensor) -> bool:
    """Whether each row of the part is one of the pictures."""
    return all(any(torch.equal(row, picture) for picture in pictures) for row in part)


def _crop(place: Place | None, picture: Size, patch: int) -> Crop | None:
    """In the cells of a Moment, half a token each; a place between two of them is rounded."""
    if place is None:
        return None
    top, left = (round(cells * PATCH / patch) for cells in place)
    height, width = (-(-cells * PATCH // patch) for cells in picture)
    return Crop(top, left, height, width)

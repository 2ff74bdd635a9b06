"""Which part of the picture each row of a call is: prompts with an area give the model a crop of the latent.

Core tells a call of the model which prompt each part of the batch is (`uuids`) and from which list it comes
(`cond_or_uncond`), but not its area. The areas are on the prompts that CALC_COND_BATCH is given. One prompt may stand
in several lists, for core gives the other side a copy with the same uuid and area. What a node does to the latent
after that, such as cutting it into tiles, is noticed by its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...places.moment import Crop
from ...places.region import PATCH

PICTURE_KEY, AREAS_KEY = "sae_steering_picture", "sae_steering_areas"  # in `transformer_options`

Size = tuple[int, ...]  # height and width of a latent, in its own cells
Box = tuple[int, int, int, int]  # height, width, top, left


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


def crops_of(latent: Tensor, options: Mapping[str, Any], patch: int) -> tuple[Crop | None, ...]:
    """`crops` of a Moment for one call of the model: empty where the latent is the whole picture.

    The picture is what the run samples, or what the call's prompts were given outside of a run. None stands for a part
    that is smaller and whose place does not follow from its prompt alone.
    """
    size, areas = size_of(latent), options.get(AREAS_KEY)
    picture: Size = options.get(PICTURE_KEY) or (areas.latent if areas else size)
    if size == picture:
        return ()
    sides, prompts = options.get("cond_or_uncond") or (0,), options.get("uuids") or ()
    if areas is None or areas.latent != picture or len(prompts) != len(sides):
        return (None,) * len(sides)
    found = [areas.boxes.get(key, frozenset()) for key in zip(sides, prompts, strict=True)]
    return tuple(_crop([box for box in boxes if box[:2] == size], picture, patch) for boxes in found)


def _crop(boxes: Sequence[Box], picture: Size, patch: int) -> Crop | None:
    """In the cells of a Moment, half a token each; a place between two of them is rounded."""
    if len(boxes) != 1:
        return None
    top, left = (round(cells * PATCH / patch) for cells in boxes[0][2:])
    height, width = (-(-cells * PATCH // patch) for cells in picture)
    return Crop(top, left, height, width)

"""Where features fire: their mean activation at each token, as a map on the picture or as bars over a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.moment import Crop, Moment
from ..places.region import cells_of_a_token
from ..places.site import Site
from .features import cond_parts


class HeatReader:
    """Sums a few features' activations token by token, call by call: the `see` of an Observer. Only cond rows count.

    Of a joint stream the picture's tokens are read. Several prompts share one picture: what the model sees of it for an
    area is laid in its place, and where several saw the same their mean is taken. Over a text there is no mean of two.
    ValueError for a part of the picture whose place is not known, and for a second text at one noise level.
    """

    def __init__(self, sae: SparseAutoencoder, site: Site, features: Sequence[int]) -> None:
        self.sae, self.site, self.features = sae, site, list(features)
        self.latent = (0, 0)  # height and width of the whole picture's
        self.calls = 0  # that saw the whole picture, or a text
        self._grid = (0, 0)  # rows and columns of tokens
        self._sum: Tensor | None = None  # of these calls: (features, batch, tokens)
        self._parts: Tensor | None = None  # of those that saw a part: (features, batch, height, width), in latent cells
        self._looks = torch.zeros(0, 0)  # how many of these saw a cell
        self._texts = (math.nan, 0)  # the noise level of the last call, and the texts that were read at it

    def __call__(self, x: Tensor, moment: Moment) -> None:
        for rows, part in cond_parts(x, moment):
            self._check_text(rows, part)
            tokens = rows[:, part.text_tokens :] if self.site.stream == "joint" else rows
            codes = self.sae.codes(tokens, self.features, part.sigma).movedim(-1, 0).cpu()
            if part.latent_frames > 1 and self.site.stream != "text":
                codes = codes.unflatten(-1, (part.latent_frames, -1)).mean(-2)  # one map for all frames of a video
            if part.crops and self.site.stream != "text":
                self._place(codes, part, part.crops[0])
                continue
            self.latent, self._grid = (part.latent_height, part.latent_width), part.grid
            self._sum = codes if self._sum is None else self._sum + codes
            self.calls += 1

    def _place(self, codes: Tensor, part: Moment, crop: Crop | None) -> None:
        """Codes (features, batch, tokens) of a part of the picture."""
        size = part.latent_height, part.latent_width
        if crop is None:
            raise ValueError(
                f"positive: the model is shown a part of {size[1] * 8}×{size[0] * 8} pixels whose place in the picture "
                "is not known, so its heat cannot be laid there; leave out the node that cuts the picture into parts."
            )
        self.latent = crop.picture_height, crop.picture_width
        if self._parts is None:
            self._parts, self._looks = codes.new_zeros(*codes.shape[:2], *self.latent), torch.zeros(self.latent)
        place = (..., slice(crop.top, crop.top + size[0]), slice(crop.left, crop.left + size[1]))
        self._parts[place] += in_cells(codes.unflatten(-1, part.grid), size)
        self._looks[place] += 1

    def _check_text(self, rows: Tensor, moment: Moment) -> None:
        if self.site.stream != "text":
            return
        sigma, texts = self._texts
        self._texts = (moment.sigma, texts + 1 if moment.sigma == sigma else 1)
        # Each block of the site reads a text once.
        other_length = self._sum is not None and self._sum.shape[-1] != rows.shape[1]
        if other_length or self._texts[1] > len(self.site.blocks):
            raise ValueError(
                "positive: the model reads several texts, so there is no one text to draw bars over; give one prompt, "
                "without ConditioningCombine, areas or a guidance that calls the model again, or use the image stream."
            )

    @property
    def heat(self) -> Tensor:
        """(features, batch, tokens): mean over the calls; of areas the cells that were seen, instead of tokens.

        ValueError when the model was never called.
        """
        if self._parts is not None:
            return self.cells[..., self._looks + self.calls > 0]
        if self._sum is None:
            raise ValueError(
                "model: it was not called at this place, so there is nothing to see; use a model that can be steered."
            )
        return self._sum / self.calls

    @property
    def cells(self) -> Tensor:
        """(features, batch, height, width) over the latent cells of the picture, 0 where no prompt has an area."""
        if self._parts is None:
            return in_cells(self.heat.unflatten(-1, self._grid), self.latent)
        seen = self._parts
        if self._sum is not None:
            seen = seen + in_cells(self._sum.unflatten(-1, self._grid), self.latent)
        return seen / (self._looks + self.calls).clamp_min(1)


def in_cells(maps: Tensor, latent: tuple[int, int]) -> Tensor:
    """Maps (..., rows, columns) of tokens as maps (..., height, width) of the latent's cells.

    Where the latent is odd, the last row or column of tokens reaches beyond it.
    """
    step = cells_of_a_token(latent, (maps.shape[-2], maps.shape[-1]))
    if step is None:  # another node resized what the block gets
        return on_picture(maps, latent)
    return maps.repeat_interleave(step, -2).repeat_interleave(step, -1)[..., : latent[0], : latent[1]]


def on_picture(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., height, width) of latent cells on a picture of `size`: each cell covers exactly its own pixels."""
    flat = cells.reshape(1, -1, *cells.shape[-2:])
    return functional.interpolate(flat, size, mode="nearest-exact").view(*cells.shape[:-2], *size)


def region_of(maps: Tensor, threshold: float) -> Tensor:
    """Maps (features, batch, height, width) to a mask (batch, height, width) in 0..1.

    Each feature counts as a share of its own largest value, and the strongest decides. From `threshold` on a pixel
    belongs to the region; with 0 the mask is soft.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: {threshold:g} came, but it is a share of the largest activation, 0 to 1.")
    shares = maps / maps.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    strongest = shares.amax(dim=0)
    return strongest if threshold == 0 else (strongest >= threshold).float()

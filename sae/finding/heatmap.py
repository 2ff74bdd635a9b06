"""Where features fire: their mean activation at each token, as a map on the picture or as bars over a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.moment import Moment
from ..places.region import PATCH, token_grid
from ..places.site import Site
from .features import cond_rows


class HeatReader:
    """Sums a few features' activations token by token, call by call: the `see` of an Observer. Only cond rows count.

    Of a joint stream the picture's tokens are read. Several prompts share one picture, and their mean is taken; over a
    text there is no mean of two. `picture` is the whole picture's size as `latent` has it, by default that of the first
    call. ValueError for a call that sees less, and for a second text at one noise level.
    """

    def __init__(
        self, sae: SparseAutoencoder, site: Site, features: Sequence[int], picture: tuple[int, int] | None = None
    ) -> None:
        self.sae, self.site, self.features, self.picture = sae, site, list(features), picture
        self.calls = 0
        self._texts = (math.nan, 0)  # the noise level of the last call, and the texts that were read at it
        self._moment: Moment | None = None
        self._sum: Tensor | None = None

    def __call__(self, x: Tensor, moment: Moment) -> None:
        self._check_picture(moment)
        for rows in cond_rows(x, moment):
            self._check_text(rows, moment)
            tokens = rows[:, moment.text_tokens :] if self.site.stream == "joint" else rows
            codes = self.sae.codes(tokens, self.features, moment.sigma).movedim(-1, 0).cpu()
            self._sum = codes if self._sum is None else self._sum + codes
            self.calls += 1
        self._moment = moment

    def _check_picture(self, moment: Moment) -> None:
        size = moment.latent_height, moment.latent_width
        self.picture = self.picture or size
        if self.site.stream != "text" and size != self.picture:
            part, whole = (f"{width * 8}×{height * 8}" for height, width in (size, self.picture))
            raise ValueError(
                f"positive: the model was shown a part of {part} pixels of the picture's {whole}, as for an area, and "
                "where it lies is not known here; give prompts for the whole picture."
            )

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
        """(features, batch, tokens): mean over the calls. ValueError when the model was never called."""
        if self._sum is None:
            raise ValueError("model: it was not called at this place, so there is nothing to see; use a FLUX model.")
        return self._sum / self.calls

    @property
    def maps(self) -> Tensor:
        """(features, batch, rows, columns) over the main picture's tokens."""
        heat = self.heat
        return heat.view(*heat.shape[:2], *token_grid(*self.latent))

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of the latent that was seen."""
        return (self._moment.latent_height, self._moment.latent_width) if self._moment else (0, 0)


def on_picture(maps: Tensor, latent: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps (..., rows, columns) on a picture of `size` (height, width): each token covers exactly its own pixels.

    `latent` is the latent's height and width; where it is odd, the last row or column of tokens reaches beyond it.
    """
    cells = maps.repeat_interleave(PATCH, -2).repeat_interleave(PATCH, -1)[..., : latent[0], : latent[1]]
    flat = cells.reshape(1, -1, *latent)
    return functional.interpolate(flat, size, mode="nearest-exact").view(*maps.shape[:-2], *size)


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

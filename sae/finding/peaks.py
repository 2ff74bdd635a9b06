"""Where each feature fires most on each picture of one run: what a gallery of features is made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..dictionary.activations import SparseCodes
from ..places.moment import Moment
from ..places.region import token_grid
from ..places.site import Stream

LATEST = 0.75  # of the first call's noise level: at higher ones features fire on noise, not on what the picture shows


class Peaks(NamedTuple):
    """Of each picture and feature."""

    strength: Tensor  # (batch, d_sae): the largest activation, 0 where the feature did not fire
    spot: Tensor  # (batch, d_sae, 2): where, down and across as fractions of the picture; NaN for a text's token


class PeakTally:
    """Keeps the largest activation of each feature, call by call; memory is 3 · batch · d_sae numbers."""

    def __init__(self, d_sae: int, stream: Stream) -> None:
        self.d_sae, self.stream = d_sae, stream
        self._first = math.nan  # the noise level of the first call
        self._strength = torch.zeros(0, d_sae)
        self._token = torch.zeros(0, d_sae, dtype=torch.int64)
        self._grid = (1, 1)

    def add(self, codes: SparseCodes, moment: Moment) -> None:
        """Codes (batch, tokens, n) of one call; one that saw noise or a part of the picture is passed over."""
        if math.isnan(self._first):
            self._first = moment.sigma
        if moment.crops or moment.sigma > LATEST * self._first:
            return
        first = moment.text_tokens if self.stream == "joint" else 0
        self._grid = token_grid(moment.latent_height, moment.latent_width)
        last = None if self.stream == "text" else first + self._grid[0] * self._grid[1]
        values, indices = (part[:, first:last].flatten(1).cpu() for part in codes)
        tokens = torch.arange(values.shape[1]) // codes.values.shape[-1]
        found = torch.zeros(len(values), self.d_sae).scatter_reduce_(1, indices, values.float(), "amax")
        token = torch.zeros_like(found, dtype=torch.int64)
        here = (values.float() == found.gather(1, indices)) & (values > 0)
        token.scatter_reduce_(1, indices, torch.where(here, tokens, 0), "amax")
        if len(found) != len(self._strength):
            self._strength, self._token = found, token
            return
        self._token = torch.where(found > self._strength, token, self._token)
        self._strength = torch.maximum(found, self._strength)

    def peaks(self) -> Peaks:
        if self.stream == "text":
            return Peaks(self._strength, torch.full((*self._strength.shape, 2), math.nan))
        rows, columns = self._grid
        down, across = self._token.div(columns, rounding_mode="floor"), self._token % columns
        return Peaks(self._strength, torch.stack([(down + 0.5) / rows, (across + 0.5) / columns], dim=-1))

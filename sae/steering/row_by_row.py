"""Many steerings in one call of the model: each row of the batch is steered by one of them alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..dictionary.directions import Directions
from ..places.moment import Moment
from ..places.site import Site
from ..places.stream_taps import Tap
from .delta import Steering


class Alone:
    """A tap that steers row r of a picture's batch by `steerings[r]`, and leaves the rows that have none as they are.

    All of them belong to one dictionary. Where a call has several parts, such as two prompts with areas, row r is
    steered in each of them.
    """

    def __init__(self, site: Site, steerings: Mapping[int, Steering], rows: int) -> None:
        self._site, self.steerings, self.rows = site, steerings, rows

    @property
    def site(self) -> Site:
        return self._site

    @property
    def dictionary(self) -> Directions:
        return next(iter(self.steerings.values())).sae

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        for steering in self.steerings.values():
            steering.ready(device, moment.sigma)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        rows = moment.rows_of_a_side(x.shape[0])
        if rows != self.rows:
            raise ValueError(
                f"model: a part of a batch has {rows} rows where {self.rows} were given, so another node cuts batches; "
                "rank by mean, or leave that node out."
            )
        steered = x.clone()
        for row, steering in self.steerings.items():
            for at in range(row, x.shape[0], rows):
                one = slice(at, at + 1)
                delta = steering.delta((x if activation is None else activation)[one], moment.sigma)
                steered[one] += delta.to(x.dtype)
        return steered


class Apart:
    """A tap that shows another one the rows of one of `count` runs, which stand one behind the other on each side."""

    def __init__(self, tap: Tap, run: int, count: int) -> None:
        self.tap, self.run, self.count = tap, run, count

    @property
    def site(self) -> Site:
        return self.tap.site

    def ready(self, batch: int, moment: Moment, device: torch.device) -> None:
        self.tap.ready(batch // self.count, moment, device)

    def __call__(self, x: Tensor, moment: Moment, activation: Tensor | None = None) -> Tensor:
        own = self._own(x, moment)
        steered = self.tap(own, moment, None if activation is None else self._own(activation, moment))
        if steered is own:
            return x
        out = x.clone()
        rows = self._apart(out, moment)
        rows.copy_(steered.view_as(rows))
        return out

    def _own(self, x: Tensor, moment: Moment) -> Tensor:
        return self._apart(x, moment).flatten(0, 1)

    def _apart(self, x: Tensor, moment: Moment) -> Tensor:
        """The run's rows of x (batch, ...) as a view (sides, rows of a side, ...).

        ValueError where a run has no equal part of each side.
        """
        side = moment.rows_of_a_side(x.shape[0])
        if side % self.count:
            raise ValueError(
                f"model: a part of a batch has {side} rows for {self.count} pictures that are drawn together, so "
                "another node cuts batches; leave that node out."
            )
        return x.unflatten(0, (-1, self.count, side // self.count))[:, self.run]

"""Several runs in one batch, each with a steering of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..places.moment import Moment
from ..places.site import Site
from ..places.taps import Tap


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

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
        rows = rows_of_a_run(x.shape[0], moment, self.run, self.count).to(x.device)
        own = x[rows]
        steered = self.tap(own, moment, None if activation is None else activation[rows])
        return x if steered is own else x.index_copy(0, rows, steered)


def rows_of_a_run(batch: int, moment: Moment, run: int, count: int) -> Tensor:
    """Where a run's rows stand in a batch of so many; ValueError where it has no equal part of each side."""
    side = moment.rows_of_a_side(batch)
    if side % count:
        raise ValueError(
            f"model: a part of a batch has {side} rows for {count} pictures that are drawn together, so another node "
            "cuts batches; leave that node out."
        )
    each = side // count
    starts = torch.arange(0, batch, side) + run * each
    return (starts.unsqueeze(1) + torch.arange(each)).flatten()

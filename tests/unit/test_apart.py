"""Several runs in one batch: each row is steered by its own run's tap alone, on each side of guidance."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord
from sae.steering.row_by_row import Apart
from small_saes import small_sae

SITE = parse_location("transformer_blocks.1", "image")
SAE = small_sae("relu")


def moment(*sides: int) -> Moment:
    return Moment(0.5, sides, 0, 2, 10)


@pytest.mark.parametrize("side", ["both", "uncond", "opposite"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_each_run_is_steered_as_if_it_were_alone(side: str, pictures: int) -> None:
    runs = 3
    x = torch.randn(2, runs, pictures, 5, SAE.d_in, generator=torch.Generator().manual_seed(1))
    read = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))  # what an update site's SAE reads
    items = [
        Intervention(Steering(SAE, [Edit(number)], method, 0.5, "raw"), SITE, side=side)
        for number, method in enumerate(("add", "scale", "add"))
    ]
    records, alone = [SteeringRecord() for _ in items], [SteeringRecord() for _ in items]
    together, activation = x.flatten(0, 2), read.flatten(0, 2)
    for number, (item, record) in enumerate(zip(items, records, strict=True)):
        tap = Apart(item.begin(record), number, runs)
        tap.ready(len(together), moment(COND, UNCOND), x.device)
        together = tap(together, moment(COND, UNCOND), activation)
    for number, (item, record) in enumerate(zip(items, alone, strict=True)):
        own = item.begin(record)(x[:, number].flatten(0, 1), moment(COND, UNCOND), read[:, number].flatten(0, 1))
        assert torch.equal(together.view(x.shape)[:, number].flatten(0, 1), own)
    assert [record.summary() for record in records] == [record.summary() for record in alone]


def test_what_is_left_alone_is_not_copied() -> None:
    @dataclass
    class Nothing:
        site = SITE

        def __call__(self, x, moment, activation=None):
            return x

    x = torch.randn(4, 5, SAE.d_in)
    assert Apart(Nothing(), 1, 2)(x, moment(COND)) is x


def test_rows_that_are_no_equal_part_for_each_run_are_refused() -> None:
    tap = Apart(Intervention(Steering(SAE, [Edit(1)]), SITE).begin(SteeringRecord()), 0, 2)
    with pytest.raises(
        ValueError, match=r"^model: a part of a batch has 3 rows for 2 pictures that are drawn together"
    ):
        tap(torch.zeros(3, 5, SAE.d_in), moment(COND))

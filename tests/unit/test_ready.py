"""What an intervention keeps from call to call: allocated ahead, for each device and size, by any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord
from small_saes import D_IN, dense_directions, small_sae

MOMENT = Moment(0.6, (COND,), 5, 6, 8)
DIRECTION = 2.5 * dense_directions("relu")[7]


def tokens(batch: int = 2) -> Tensor:
    return torch.randn((batch, MOMENT.image_tokens, D_IN), generator=torch.Generator().manual_seed(batch)) * 2


def adding(method: str = "add", mask: Tensor | None = None) -> Intervention:
    steering = Steering(small_sae("relu"), [Edit(7, 2.5)], method, unit="raw")  # type: ignore[arg-type]
    return Intervention(steering, parse_location("transformer_blocks.1", "image"), mask=mask)


def test_notes_of_several_threads_are_all_counted() -> None:
    """ComfyUI prepares a run in inference mode; its threads for several GPUs have that mode off."""
    record = SteeringRecord()
    tap, x = adding(mask=torch.ones(1, 6, 8)).begin(record), tokens()

    def call(number: int) -> None:
        moment = replace(MOMENT, sigma=1 / (number + 1))
        tap.ready(len(x), moment, x.device)
        with torch.no_grad():
            tap(x, moment)

    with torch.inference_mode():
        tap.ready(len(x), MOMENT, x.device)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(300)))
    summary = record.summary()
    assert summary.steps == len(summary.curve) == 300
    mean = float((DIRECTION.norm() / x.norm(dim=-1)).mean())
    assert [ratio for _, ratio in summary.curve] == pytest.approx([mean] * 300, rel=1e-5)


def test_a_region_belongs_to_the_number_of_rows() -> None:
    """Two masks for two pictures, and again for two sides of them."""
    mask, record = torch.stack([torch.ones(6, 8), torch.zeros(6, 8)]), SteeringRecord()
    tap = adding(mask=mask).begin(record)
    for sides in ((COND,), (COND, UNCOND), (COND,)):
        x = tokens(2 * len(sides))
        moved = (tap(x, replace(MOMENT, sides=sides)) != x).flatten(1).any(1)
        assert moved.tolist() == [True, False] * len(sides)
    one = adding(mask=mask[:1]).begin(record)
    assert [len(one(tokens(batch), MOMENT)) for batch in (1, 3, 2)] == [1, 3, 2]


def test_being_ready_is_told_nothing_and_changes_nothing() -> None:
    x, record = tokens(), SteeringRecord()
    expected = adding("surgery").begin(SteeringRecord())(x, MOMENT)
    tap = adding("surgery").begin(record)
    tap.ready(len(x), MOMENT, x.device)
    assert record.summary().steps == 0
    assert torch.equal(tap(x, MOMENT), expected)

"""Counting whether a run reached its places, and what diffusers' host says where it did not."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fused import fused, without_last
from sae.hosts.diffusers import capture, steer
from sae.places.moment import COND, Moment
from sae.places.reach import CountedTap, Reach
from sae.places.site import parse_location
from sae.places.stream_taps import Observer

pytest.importorskip("diffusers.models.transformers.transformer_flux")

from small_flux import adding, hook_count, inputs, predict, small_flux

MOMENT = Moment(0.5, (COND,), 3, 4, 4)
CASES = {
    "transformer_blocks.1.attn (image)": (lambda flux: fused(flux.transformer_blocks[1].attn), "transformer_blocks.1"),
    "transformer_blocks.1.ff (image)": (lambda flux: fused(flux.transformer_blocks[1].ff), "transformer_blocks.1"),
    "single_transformer_blocks.2.attn (joint)": (
        lambda flux: fused(flux.single_transformer_blocks[2].attn), "single_transformer_blocks.2"
    ),
    "single_transformer_blocks.2 (joint)": (lambda flux: without_last(flux.single_transformer_blocks), None),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return small_flux()


def run(reach: Reach, entered=(), reached=()) -> None:
    """One call of the model."""
    for block in entered:
        reach.enter(block, MOMENT.sigma)
    for block in reached:
        reach.reach(block)
    reach.call()


def test_blocks_that_were_bypassed_and_left_out_are_told_apart() -> None:
    reach = Reach(parse_location("transformer_blocks.0-4.attn"))
    assert reach.missed("steered") == [] and not reach.nothing  # not called yet
    run(reach, entered=[0, 1, 2], reached=[1])
    run(reach, entered=[0, 1], reached=[])
    assert reach.calls == 2 and not reach.nothing
    assert [sentence.split(" was never")[0] for sentence in reach.missed("read")] == [
        "transformer_blocks.3-4.attn (image)",
        "transformer_blocks.0,2.attn (image)",
    ]
    reach.check()
    run(reach, reached=[0, 2, 3, 4])
    assert reach.missed("read") == []


def test_a_reader_stops_only_after_a_call() -> None:
    reach = Reach(parse_location("transformer_blocks.0.attn"))
    reach.check()
    run(reach)
    with pytest.raises(ValueError, match=r"^location: transformer_blocks\.0\.attn \(image\) was never reached"):
        reach.check()


def test_counts_of_many_threads_add_up() -> None:
    reach = Reach(parse_location("transformer_blocks.0-1"))
    x, seen = torch.zeros(1, 4, 2), []
    tap = CountedTap(Observer(reach.site, lambda x, moment: seen.append(x)), reach, 1)
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(lambda step=step: (tap.enter(float(step)), tap(x, MOMENT), reach.call())) for step in range(400)
        ]
        for future in calls:
            future.result()
    assert reach.calls == reach._reached[1] == len(reach._entered[1]) == len(seen) == 400
    assert reach._reached[0] == 0 and seen[0] is x


@pytest.mark.parametrize("place", CASES)
def test_diffusers_names_what_was_not_reached(model, place, caplog) -> None:
    location, stream = place.rstrip(")").split(" (")
    change, instead = CASES[place]
    plain = predict(model, inputs())
    with steer(model, [adding(location, stream)]) as record:
        assert not torch.equal(predict(model, inputs()), plain)
    assert record.summary().unreached == () and caplog.records == []
    with change(model):
        plain = predict(model, inputs())
        with steer(model, [adding(location, stream)]) as record:
            assert torch.equal(predict(model, inputs()), plain)
        with pytest.raises(ValueError, match=r"^location: "), capture(model, record.reaches[0].site, lambda *_: None):
            predict(model, inputs())
    summary = record.summary()
    [sentence] = summary.warnings
    assert sentence.startswith(f"{place} was never reached in this run, so nothing was steered there: ")
    assert sentence.endswith(f"output instead, {instead}." if instead else "use another block.")
    assert [(told.levelno, told.getMessage()) for told in caplog.records] == [(logging.WARNING, sentence)]
    with pytest.raises(ValueError, match=r"^location: "):
        summary.check_reached()
    assert hook_count(model) == 0


def test_diffusers_steering_off_the_schedule_is_not_reported(model, caplog) -> None:
    with steer(model, [adding("transformer_blocks.0-1.attn", strength=0.0)]) as record:
        predict(model, inputs())
    assert record.summary().unreached == () and caplog.records == []


def test_an_exception_is_not_replaced(model) -> None:
    with (
        without_last(model.single_transformer_blocks),
        pytest.raises(KeyError),
        capture(model, parse_location("single_blocks.2"), lambda *_: None),
    ):
        predict(model, inputs())
        raise KeyError

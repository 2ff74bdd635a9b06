"""One total over several places: closed formulas of what is left after all of them."""

from __future__ import annotations

import pytest

from sae.places.site import parse_location
from sae.steering.set_up import spread

OUTPUTS = [parse_location(f"transformer_blocks.{block}", "image") for block in range(3)]
ATTENTIONS = [parse_location(f"transformer_blocks.{block}.attn", "image") for block in range(3)]


def shares(total, method, sites):
    return [spread(total, method, site, sites) for site in sites]


@pytest.mark.parametrize("method", ["add", "swap", "scale", "set", "project_out", "boost_if_active", "surgery"])
@pytest.mark.parametrize("total", [-0.5, 0.0, 0.3, 1.0, 1.7])
def test_one_place_and_contributions_take_the_total(method, total):
    assert shares(total, method, OUTPUTS[:1]) == [total]
    assert shares(total, method, ATTENTIONS) == [total] * 3


@pytest.mark.parametrize("method", ["add", "boost_if_active", "surgery"])
@pytest.mark.parametrize("total", [-0.5, 0.0, 0.3, 2.0])
def test_pushes_at_outputs_add_up_to_the_total(method, total):
    found = shares(total, method, OUTPUTS)
    assert sum(found) == pytest.approx(total) and len(set(found)) == 1


@pytest.mark.parametrize("method", ["swap", "project_out"])
@pytest.mark.parametrize("total", [-0.5, 0.0, 0.3, 0.99])
def test_removals_at_outputs_leave_what_one_would(method, total):
    left = 1.0
    for share in shares(total, method, OUTPUTS):
        left *= 1 - share
    assert left == pytest.approx(1 - total)


@pytest.mark.parametrize("total", [0.0, 0.3, 1.0, 2.5])
def test_scalings_at_outputs_multiply_to_the_total(total):
    product = 1.0
    for share in shares(total, "scale", OUTPUTS):
        product *= share
    assert product == pytest.approx(total)


def test_from_all_of_it_on_each_place_takes_the_total():
    assert shares(1.0, "swap", OUTPUTS) == [1.0] * 3 and shares(1.5, "swap", OUTPUTS) == [1.5] * 3
    assert shares(-0.5, "scale", OUTPUTS) == [-0.5] * 3
    assert shares(7.0, "set", OUTPUTS) == [7.0] * 3


def test_streams_and_contributions_do_not_share():
    text = parse_location("transformer_blocks.0", "text")
    joint = parse_location("single_transformer_blocks.0", "joint")
    mixed = [*OUTPUTS[:2], ATTENTIONS[2], text]
    assert shares(0.6, "add", mixed) == [0.3, 0.3, 0.6, 0.6]
    entering = parse_location("transformer_blocks.2.input", "image")
    assert shares(0.6, "add", [*OUTPUTS[:1], entering, text]) == pytest.approx([0.3, 0.3, 0.6])
    assert shares(0.6, "add", [*OUTPUTS[:2], text, joint]) == pytest.approx([0.2, 0.2, 0.3, 0.15])
